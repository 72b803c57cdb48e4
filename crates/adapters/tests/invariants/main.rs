//! What holds for the adapters of every method on any Burn module, and for the slots they live in.

mod errors;
mod methods;
mod net;
mod places;
mod slots;
