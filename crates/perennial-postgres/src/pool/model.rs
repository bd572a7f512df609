//! A model of the pool: what callers, the background task and the server do, in any order.
//!
//! The clients are real; each talks over a pipe to a fake server that records how it is closed.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use perennial::testing::{TestCa, TestClock};
use perennial::{LiveCert, Renewed, Snapshot, source_fn};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Config, NoTls};

use crate::pool::checkout;
use crate::pool::connection::PgConnection;
use crate::pool::new_session::NewSession;
use crate::pool::observe::RetireReason;
use crate::pool::retire::{Closing, drain, retire_immediately};
use crate::pool::rotate::{Survey, exchange_parked, survey};
use crate::pool::session::{Driver, Session};
use crate::pool::state::{ManagerSettings, PoolState};

const HOUR: Duration = Duration::from_secs(3_600);
const MOMENT: Duration = Duration::from_millis(1);

/// The server's side of one session.
#[derive(Default)]
struct Backend {
    /// Makes the server close the connection.
    crash: Notify,
    /// Makes the server report that it is a standby now.
    demote: Notify,
    crashed: AtomicBool,
    /// Whether the client sent the Terminate message.
    terminated: AtomicBool,
    /// Whether the connection is closed, for whatever reason.
    closed: AtomicBool,
}

impl Backend {
    async fn run(self: Arc<Self>, mut stream: DuplexStream) {
        tokio::select! {
            _ = self.answer(&mut stream) => {}
            () = self.crash.notified() => self.crashed.store(true, Ordering::SeqCst),
        }
        self.closed.store(true, Ordering::SeqCst);
    }

    async fn answer(&self, stream: &mut DuplexStream) -> std::io::Result<()> {
        skip(stream).await?;
        // AuthenticationOk, ReadyForQuery.
        stream.write_all(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I").await?;
        loop {
            let kind = tokio::select! {
                biased;
                kind = stream.read_u8() => kind?,
                () = self.demote.notified() => {
                    // ParameterStatus.
                    // Fails if the client has just sent its Terminate message.
                    let _ = stream.write_all(b"S\0\0\0\x16in_hot_standby\0on\0").await;
                    continue;
                }
            };
            skip(stream).await?;
            match kind {
                // EmptyQueryResponse, ReadyForQuery.
                b'Q' => stream.write_all(b"I\0\0\0\x04Z\0\0\0\x05I").await?,
                b'X' => {
                    self.terminated.store(true, Ordering::SeqCst);
                    return Ok(());
                }
                other => panic!("the pool sends only pings, not {other}"),
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::SeqCst)
    }
}

/// Reads the rest of a message: its length, which counts itself, and its body.
async fn skip(stream: &mut DuplexStream) -> std::io::Result<()> {
    let length = stream.read_u32().await? as usize;
    let mut body = vec![0; length - 4];
    stream.read_exact(&mut body).await?;
    Ok(())
}

async fn log_in(state: &PoolState, snapshot: Arc<Snapshot>) -> (Session, Arc<Backend>) {
    let (ours, theirs) = tokio::io::duplex(4_096);
    let backend = Arc::new(Backend::default());
    tokio::spawn(Arc::clone(&backend).run(theirs));
    let mut config = Config::new();
    config.user("app").ssl_mode(SslMode::Disable);
    let (client, connection) = config.connect_raw(ours, NoTls).await.unwrap();
    let session = Session::new(client, connection, "fake".into(), snapshot, state.side());
    (session, backend)
}

pub(super) async fn live() -> LiveCert {
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    let clock = TestClock::starting_at(now);
    let (ca, wall) = (TestCa::new(), clock.clone());
    let source = source_fn(move || {
        let material = ca.issue(wall.now(), HOUR);
        async { Ok(material) }
    });
    LiveCert::builder()
        .clock(&clock)
        .start(source)
        .await
        .unwrap()
}

fn state(live: &LiveCert) -> Arc<PoolState> {
    let settings = ManagerSettings {
        name: "model".into(),
        // Nothing listens there: a request to cancel fails.
        connect_timeout: 20 * MOMENT,
        idle_ping: Duration::MAX,
        hard_limit: None,
        on_connect: None,
    };
    let config = "host=127.0.0.1 port=1 user=app target_session_attrs=read-write"
        .parse()
        .unwrap();
    Arc::new(PoolState::new(live.clone(), config, settings))
}

#[derive(Clone, Debug)]
enum Operation {
    // Of callers and of bb8.
    Open,
    BeginConnect,
    HandOver(usize),
    GiveUp(usize),
    CheckOut,
    Touch(usize),
    Return(usize),
    Detach(usize),
    OpenDedicated,
    TouchDedicated,
    // Of the renewer.
    Rotate,
    // Of the background task: a survey may be outdated by the time it is used.
    ConnectSpare,
    Survey,
    ExchangeSurveyed,
    MoveAll,
    MissPing(usize),
    CloseIdle(usize),
    FinishClosing,
    // Of the program.
    RetireImmediately,
    // Of the server.
    Crash(usize),
    Demote(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        3 => Just(Open),
        3 => Just(BeginConnect),
        3 => (0usize..8).prop_map(HandOver),
        1 => (0usize..8).prop_map(GiveUp),
        6 => Just(CheckOut),
        3 => (0usize..8).prop_map(Touch),
        5 => (0usize..8).prop_map(Return),
        1 => (0usize..8).prop_map(Detach),
        3 => Just(OpenDedicated),
        3 => Just(TouchDedicated),
        2 => Just(Rotate),
        4 => Just(ConnectSpare),
        3 => Just(Survey),
        4 => Just(ExchangeSurveyed),
        1 => Just(MoveAll),
        1 => (0usize..8).prop_map(MissPing),
        3 => (0usize..8).prop_map(CloseIdle),
        2 => Just(FinishClosing),
        1 => Just(RetireImmediately),
        1 => (0usize..16).prop_map(Crash),
        1 => (0usize..16).prop_map(Demote),
    ]
}

/// A connection that a caller has.
struct Held {
    connection: PgConnection,
    /// Of the session that it was claimed with.
    driver: Arc<Driver>,
    /// Whether it is dropped instead of returned.
    is_dedicated: bool,
}

struct Model {
    live: LiveCert,
    state: Arc<PoolState>,
    /// Every session that was ever connected.
    sessions: Vec<(Arc<Driver>, Arc<Backend>)>,
    /// Connects in flight, logged in.
    connecting: Vec<NewSession>,
    idle: VecDeque<PgConnection>,
    /// Dedicated connections that their caller has not used yet.
    untouched: VecDeque<PgConnection>,
    held: Vec<Held>,
    surveyed: Option<(Survey, u64)>,
    closing: Closing,
    /// Older generations were retired immediately.
    oldest_allowed: u64,
}

impl Model {
    async fn new() -> Self {
        let live = live().await;
        Self {
            state: state(&live),
            live,
            sessions: Vec::new(),
            connecting: Vec::new(),
            idle: VecDeque::new(),
            untouched: VecDeque::new(),
            held: Vec::new(),
            surveyed: None,
            closing: Closing::default(),
            oldest_allowed: 0,
        }
    }

    fn newest(&self) -> u64 {
        self.state.newest().unwrap()
    }

    async fn connect(&mut self) -> Session {
        let snapshot = self.live.current().unwrap();
        let (session, backend) = log_in(&self.state, snapshot).await;
        self.sessions.push((Arc::clone(&session.driver), backend));
        session
    }

    async fn open(&mut self) -> PgConnection {
        let session = self.connect().await;
        checkout::add(&self.state, session)
    }

    fn parked(&self, index: usize) -> Option<&PgConnection> {
        let index = index.checked_rem(self.idle.len() + self.untouched.len())?;
        self.idle.iter().chain(&self.untouched).nth(index)
    }

    fn backend(&self, driver: &Arc<Driver>) -> &Backend {
        let of_driver = |(known, _): &&(Arc<Driver>, _)| Arc::ptr_eq(known, driver);
        &self.sessions.iter().find(of_driver).unwrap().1
    }

    async fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Open => {
                let connection = self.open().await;
                self.idle.push_back(connection);
            }
            Operation::BeginConnect => {
                let generation = self.newest();
                let begun = NewSession::begin(&self.state, generation);
                let Ok(mut new) = begun else {
                    panic!("the newest generation is allowed");
                };
                new.log_in(self.connect().await);
                self.connecting.push(new);
            }
            Operation::HandOver(index) => self.hand_over(index),
            Operation::GiveUp(index) => {
                if let Some(index) = index.checked_rem(self.connecting.len()) {
                    drop(self.connecting.swap_remove(index));
                }
            }
            Operation::OpenDedicated => {
                let connection = self.open().await;
                self.untouched.push_back(connection);
            }
            Operation::TouchDedicated => {
                if let Some(connection) = self.untouched.pop_front() {
                    let driver = Arc::clone(&connection.session().driver);
                    if !self.backend(&driver).is_closed() && !driver.is_aborted() {
                        self.hold(connection, true);
                    }
                }
            }
            Operation::CheckOut => self.check_out(),
            Operation::Touch(index) => {
                if let Some(held) = pick(&self.held, index) {
                    let _ = held.connection.is_closed();
                    let _ = held.connection.cancel_token();
                }
            }
            Operation::Return(index) => {
                if !self.held.is_empty() {
                    let index = index % self.held.len();
                    let held = self.held.swap_remove(index);
                    self.take_back(held);
                }
            }
            // deadpool's `take`: the caller keeps it, and drops it at the end.
            Operation::Detach(index) => {
                if let Some(index) = index.checked_rem(self.held.len()) {
                    let held = &mut self.held[index];
                    held.connection.slot().mark_pooled(false);
                    held.is_dedicated = true;
                }
            }
            Operation::Rotate => {
                let before = self.newest();
                // Longer than the shortest time between two fetches.
                tokio::time::sleep(Duration::from_secs(2)).await;
                let renewed = self.live.renew().await.unwrap();
                assert!(matches!(renewed, Renewed::Newer(_)), "{renewed:?}");
                assert_eq!(self.newest(), before + 1);
            }
            Operation::ConnectSpare => {
                let spare = self.connect().await;
                self.state.spares.put(spare);
            }
            Operation::Survey => {
                let newest = self.newest();
                self.surveyed = Some((survey(&self.state, newest), newest));
            }
            Operation::ExchangeSurveyed => {
                if let Some((survey, newest)) = self.surveyed.take() {
                    self.exchange(&survey, newest);
                }
            }
            Operation::MoveAll => self.move_all().await,
            Operation::MissPing(index) => {
                if let Some(connection) = self.parked(index) {
                    connection.slot().driver().mark_unusable();
                }
            }
            Operation::CloseIdle(index) => {
                if let Some(slot) = self.parked(index).map(|idle| Arc::clone(idle.slot())) {
                    self.closing.add(slot);
                }
            }
            Operation::FinishClosing => {
                self.closing.close_idle(&self.state, RetireReason::Expired);
            }
            Operation::RetireImmediately => {
                self.oldest_allowed = self.newest();
                let state = Arc::clone(&self.state);
                tokio::spawn(async move { retire_immediately(&state).await });
            }
            Operation::Demote(index) => {
                if let Some((_, backend)) = pick(&self.sessions, index) {
                    backend.demote.notify_one();
                }
            }
            Operation::Crash(index) => {
                if let Some((_, backend)) = pick(&self.sessions, index) {
                    backend.crash.notify_one();
                }
            }
        }
        // Paused time moves only once every task is idle.
        tokio::time::sleep(MOMENT).await;
        self.check();
    }

    fn hand_over(&mut self, index: usize) {
        let Some(index) = index.checked_rem(self.connecting.len()) else {
            return;
        };
        let new = self.connecting.swap_remove(index);
        let generation = new.session().unwrap().generation();
        let handed_over = new.hand_over(|session| checkout::add(&self.state, session));
        let is_allowed = generation >= self.oldest_allowed;
        assert_eq!(handed_over.is_ok(), is_allowed, "generation {generation}");
        self.idle.extend(handed_over.ok());
    }

    /// As bb8: the first idle connection that is valid.
    fn check_out(&mut self) {
        while let Some(mut connection) = self.idle.pop_front() {
            let newest = self.newest();
            let has_spare = self.state.spares.count(newest) > 0;
            if checkout::check_out(&self.state, &mut connection).is_err() {
                continue;
            }
            let driver = Arc::clone(&connection.session().driver);
            let generation = driver.generation();
            assert!(
                generation >= self.oldest_allowed,
                "a retired generation was handed out"
            );
            assert!(generation == newest || !has_spare, "a spare was ready");
            assert!(!driver.is_aborted(), "an aborted session was handed out");
            assert!(
                !self.backend(&driver).is_closed(),
                "a closed session was handed out"
            );
            self.hold(connection, false);
            return;
        }
    }

    fn hold(&mut self, connection: PgConnection, is_dedicated: bool) {
        self.held.push(Held {
            driver: Arc::clone(&connection.session().driver),
            connection,
            is_dedicated,
        });
    }

    /// As bb8: a connection that is broken is dropped.
    fn take_back(&mut self, held: Held) {
        let mut connection = held.connection;
        if held.is_dedicated {
            return;
        }
        if checkout::take_back(&self.state, &mut connection) {
            assert!(!connection.is_claimed(), "returned and still claimed");
            self.idle.push_back(connection);
        }
    }

    fn exchange(&self, survey: &Survey, newest: u64) {
        let before: Vec<_> = survey.parked.iter().map(|slot| slot.driver()).collect();
        let spares = self.state.spares.count(newest);
        exchange_parked(&self.state, survey, newest);
        let mut exchanged = 0;
        for (slot, before) in survey.parked.iter().zip(before) {
            let after = slot.driver();
            if !Arc::ptr_eq(&before, &after) {
                assert!(before.is_retired(), "exchanged and not retired");
                assert_eq!(after.generation(), newest);
                exchanged += 1;
            }
        }
        let used = spares - self.state.spares.count(newest);
        assert_eq!(used, exchanged, "each spare used is one exchange");
    }

    /// What a rotation does in the end.
    async fn move_all(&mut self) {
        let newest = self.newest();
        loop {
            let old = survey(&self.state, newest);
            if old.parked.is_empty() {
                break;
            }
            let spare = self.connect().await;
            self.state.spares.put(spare);
            self.exchange(&old, newest);
        }
        self.state.spares.clear();
        for connection in self.idle.iter().chain(&self.untouched) {
            assert_eq!(
                connection.generation(),
                newest,
                "an old idle connection is left"
            );
            let driver = connection.slot().driver();
            assert!(!driver.role_changed(), "one with another role is left");
        }
    }

    fn check(&self) {
        for held in &self.held {
            let session = held.connection.session();
            let kept = Arc::ptr_eq(&session.driver, &held.driver)
                && Arc::ptr_eq(&held.connection.slot().driver(), &held.driver);
            assert!(kept, "a claimed session was exchanged");
            let backend = self.backend(&held.driver);
            let may_be_closed = backend.crashed.load(Ordering::SeqCst)
                || held.driver.generation() < self.oldest_allowed;
            let is_closed = backend.is_closed() || session.client.is_closed();
            assert!(may_be_closed || !is_closed, "a claimed session was closed");
        }
        let mut known = self.state.open_sessions();
        let in_pool = known.len();
        known.extend(self.state.spares.drivers());
        let in_flight = self.connecting.iter().filter_map(NewSession::session);
        known.extend(in_flight.map(|session| Arc::clone(&session.driver)));
        for (driver, backend) in &self.sessions {
            let is_this = |known: &&Arc<Driver>| Arc::ptr_eq(known, driver);
            let times = known.iter().filter(is_this).count();
            let is_open = usize::from(!driver.is_finished());
            assert!(
                times == is_open || times == 1 && is_open == 0,
                "{times} times, {is_open} open"
            );
            if driver.is_finished() {
                assert!(backend.is_closed(), "finished and open at the server");
            }
        }
        let status = self.state.status();
        let counted = status.by_generation.values().sum::<usize>() + status.draining;
        assert_eq!(counted, in_pool, "{status:?}");
        assert_eq!(status.connecting, self.connecting.len(), "{status:?}");
        let retired = self
            .sessions
            .iter()
            .filter(|(driver, _)| driver.is_retired());
        assert_eq!(status.retired_total(), retired.count() as u64, "{status:?}");
    }

    /// Returns everything, drains, and drops the pool.
    async fn finish(mut self) {
        while let Some(held) = self.held.pop() {
            self.take_back(held);
        }
        self.untouched.clear();
        self.connecting.clear();
        assert_eq!(
            drain(&self.state, Duration::from_secs(10)).await,
            0,
            "connections are left"
        );
        self.idle.clear();
        drop((self.surveyed, self.closing));
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(self.state.spares.drivers().is_empty(), "a spare is left");
        for (driver, backend) in &self.sessions {
            assert!(
                driver.is_finished() && backend.is_closed(),
                "a session leaked"
            );
            let is_known = driver.is_aborted() || backend.crashed.load(Ordering::SeqCst);
            let terminated = backend.terminated.load(Ordering::SeqCst);
            assert!(
                is_known || terminated,
                "closed without the Terminate message"
            );
        }
    }
}

fn pick<T>(items: &[T], index: usize) -> Option<&T> {
    items.get(index.checked_rem(items.len())?)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_order_of_operations_exchanges_a_claimed_session_or_loses_one(
        operations in prop::collection::vec(operation(), 1..100),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let mut model = Model::new().await;
            for operation in operations {
                model.apply(operation).await;
            }
            model.finish().await;
        });
    }
}
