//! stub
/// Which part of the program the configuration is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Receiver and worker in one process.
    Run,
    /// The receiver alone.
    Receiver,
    /// The worker alone.
    Worker,
}
