//! A test program of its own, because the counting allocator belongs to the whole program.

use std::hint::black_box;

use perennial::LiveCert;
use perennial_bench::memory_ca::MemoryCa;

#[test]
fn current_allocates_nothing() {
    let live = LiveCert::fixed(MemoryCa::default().issue()).unwrap();
    let read = || {
        for _ in 0..1_000 {
            black_box(live.current()).unwrap();
        }
    };
    assert_eq!(allocation_counter::measure(read).count_total, 0);
    // This proves that the allocator counts.
    let clone = || drop(black_box(vec![1]));
    assert_eq!(allocation_counter::measure(clone).count_total, 1);
}
