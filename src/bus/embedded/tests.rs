//! Crash, order and failure, seen from outside the bus.
