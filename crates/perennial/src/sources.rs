//! The sources that come with the core.

mod file;
pub use file::FileSource;
