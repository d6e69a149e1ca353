//! A deterministic simulator of a pair: the protocol's own state machines ([`ft_core::Replica`], the disk schedule and the FT layers of
//! `ft-devices`, the switch of `ft-runtime`, the detectors and pacings of `ft-policies`) in a world that is one thread and one seed.
//!
//! # A run
//!
//! A seed decides everything. [`shape`] draws what the pair and its world are like, [`faults`] what goes wrong and when, and the stream of
//! random numbers that is left decides all delays and which thread has its turn. A run ([`run`]) has two phases: faults strike for a
//! while, with every property that can be judged at each step judged at each step; then everything is put right, and whoever is left must
//! get on with it. At the end the transcript is judged against an uninterrupted machine, and the guest is started anew from the disk.
//!
//! Time jumps from one event to the next. The finest grain is a *turn* of a thread of a replica's process ([`node`]): one call of the
//! protocol, one effect, one output. Between any two turns any other thing may happen, a death among them.
//!
//! # Where to add something
//!
//! | what | where |
//! |---|---|
//! | a fault that strikes at a moment | a variant of [`faults::Kind`], and what it does and how it ends in [`faults::strike`] |
//! | a plan with a point of its own | [`faults::special`], [`faults::pointed`], [`faults::corners`]; with separate disks or a person as the tie-breaker, [`faults::apart`] |
//! | a condition that holds for a whole run | a variant of [`shape::Ambient`], asked for where it matters |
//! | a property of every step | a file in [`properties`], and a line in [`properties::all`]; what it must see and cannot, a variant of [`properties::Seen`] |
//! | a property of a whole run | a function, and a line in [`properties::at_the_end`] |
//! | something that the checkers must know | a field of [`world::facts::Facts`] or of [`ft_core::replica::View`] |
//! | a mutation | a line in `ft_core::mutation`, and `mutated(...)` where the mistake is made: in `ft-core`, in `ft-devices`, or in the glue here |
//! | more of the runtime | its thread in [`node`], named as its file in `crates/runtime/src/replica` |
//! | more of the world | a file in [`world`] |
//!
//! A mutation is caught when some seed within its budget ([`controls`]) violates a property. One that survives is a hole here.
//!
//! # Rules
//!
//! Nothing here reads a clock, the environment or a hash map's order: the same seed is the same run, to the byte. Every draw of the run
//! comes from `World::random`; the shape and the plan have streams of their own, so that leaving a fault out changes nothing else.

pub mod cold;
pub mod command;
pub mod controls;
pub mod faults;
pub mod guest;
pub mod node;
pub mod properties;
pub mod random;
pub mod register;
pub mod run;
pub mod shape;
pub mod shrink;
pub mod trace;
pub mod world;
