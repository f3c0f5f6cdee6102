//! The tests that every provider runs, and the in-memory reference that they run against first.
