//! The program from outside: one binary, real processes, loopback only.

#[macro_use]
mod account_store;
mod accounts;
mod agreement;
mod api;
mod calls;
mod changes;
mod chaos;
mod conformance;
#[macro_use]
mod contract;
#[macro_use]
mod sessions;
mod crowd;
mod direct;
#[macro_use]
mod presence;
mod faults;
mod folding;
mod full;
mod harness;
mod kinds;
mod lanes;
mod migrate;
mod nodes;
mod overtake;
mod presence_faults;
mod profiles;
mod protocol;
mod recovery;
mod recovery_cutover;
mod recovery_faults;
mod recovery_partitions;
mod redis;
mod rows;
mod search;
mod session_faults;
mod sqlite;
mod static_dir;
mod stop;
mod table;
mod tidy;
mod together;
mod together_faults;
mod trouble;
mod web;
mod wire;
