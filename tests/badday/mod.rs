//! Bad input and bad days: what was named in advance, and what follows from it.

mod input;
