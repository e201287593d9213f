//! The whole product as a user sees it. One binary, so that all tests share one S3 server; one module a theme.

mod changes;
mod commit;
mod config;
mod damage;
mod differential;
mod docs;
mod exclusive;
mod fence;
mod foreign;
mod fork;
mod golden;
mod harness;
mod hosts;
mod interop;
mod large;
mod many;
mod no_commit;
mod open;
mod outage;
mod output;
mod processes;
mod replaced;
mod restore;
mod scripts;
mod waiting;
