//! Entry points for fuzzers (and the property tests here): arbitrary bytes drive a board in ways a hostile guest could.
//! Each returns normally for every input, in time linear in its length.
