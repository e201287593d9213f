//! An S3-compatible bucket, as bottomless uses one.
//!
//! The crate stands on `object_store` and adds what the commit protocol needs and that crate does not offer: one
//! attempt of a conditional create whose outcome is a type ([`CreateOutcome`], [`StoreError::kind`]), an upload
//! that streams a file, counters of what really went over the wire, credentials of the regular AWS chain, and the
//! proof that a bucket honours `If-None-Match` under simultaneous writers ([`probe`]).
//!
//! It knows keys and bytes; what they mean is the business of the layers above.

mod body;
mod bucket;
mod buffers;
mod credentials;
mod endpoint;
mod error;
mod listing;
mod local;
mod meter;
mod parts;
pub mod probe;
mod s3;
mod transport;

pub use body::Body;
pub use bucket::{Below, Bucket, CreateOutcome, Expected, Next, Object, Replaced, Start};
pub use endpoint::{Endpoint, EndpointError, Location};
pub use error::{StoreError, StoreErrorKind};
pub use meter::Counters;
pub use transport::Transport;
