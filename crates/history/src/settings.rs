//! What all users of a database must agree on: an object beside its history.

use std::time::Duration;

use bottomless_store::Object;
use serde::{Deserialize, Serialize};

use crate::{DatabaseId, History, HistoryError, Listing};

/// What all users of a database must agree on, whatever their environment says. Without the object
/// `<database id>/bottomless.json` the defaults count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// No object of the log is deleted before it is this old, and a writer that has not heard of the store for half of it
    /// asks before and after it writes (`W` in the documents).
    pub fence_window: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { fence_window: Duration::from_secs(60 * 60) }
    }
}

/// The object's content. What a newer version may have added is passed over.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    /// Seconds; fractions are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fence_window_seconds: Option<f64>,
}

/// Why the content is not understood.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// Not the JSON that it should be.
    #[error("it is not the JSON that is expected: {0}")]
    Json(#[from] serde_json::Error),
    /// Not a duration.
    #[error("fence_window_seconds is {0}, which is not a number of seconds greater than zero")]
    FenceWindow(f64),
}

impl Settings {
    /// The name of the object below the prefix of the database.
    pub const NAME: &str = "bottomless.json";

    /// The key of the object.
    #[must_use]
    pub fn key(id: &DatabaseId) -> String {
        format!("{id}/{}", Self::NAME)
    }

    /// Reads the content of the object.
    ///
    /// # Errors
    /// When it is not JSON, or a value is out of range.
    pub fn decode(content: &[u8]) -> Result<Self, InvalidSettings> {
        let content: Content = serde_json::from_slice(content)?;
        let mut settings = Self::default();
        if let Some(seconds) = content.fence_window_seconds {
            settings.fence_window = Duration::try_from_secs_f64(seconds)
                .ok()
                .filter(|window| !window.is_zero())
                .ok_or(InvalidSettings::FenceWindow(seconds))?;
        }
        Ok(settings)
    }

    /// The content of the object.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let content = Content { fence_window_seconds: Some(self.fence_window.as_secs_f64()) };
        serde_json::to_vec(&content).unwrap_or_default()
    }
}

impl History {
    /// The settings of the database that was listed: a request only where there is such an object.
    ///
    /// # Errors
    /// Those of the store, and [`HistoryError::Settings`].
    pub async fn settings(&self, listing: &Listing) -> Result<Settings, HistoryError> {
        let Some(Object { key, .. }) = listing.settings() else {
            return Ok(Settings::default());
        };
        match self.bucket().get(key).await.map_err(HistoryError::from) {
            Ok(content) => {
                Settings::decode(&content).map_err(|cause| HistoryError::Settings { key: key.clone(), cause })
            }
            // Taken away since it was listed.
            Err(error) if error.is_vanished() => Ok(Settings::default()),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        for seconds in [1.5, 60.0, 86_400.0] {
            let settings = Settings { fence_window: Duration::from_secs_f64(seconds) };
            assert_eq!(Settings::decode(&settings.encode()).unwrap(), settings);
        }
    }

    #[test]
    fn what_is_missing_is_the_default_and_what_is_new_is_passed_over() {
        assert_eq!(Settings::decode(b"{}").unwrap(), Settings::default());
        let settings = Settings::decode(br#"{"fence_window_seconds": 60, "of_tomorrow": [1]}"#).unwrap();
        assert_eq!(settings.fence_window, Duration::from_secs(60));
    }

    #[test]
    fn what_is_wrong_is_an_error() {
        for wrong in ["", "60", "{\"fence_window_seconds\": \"1h\"}", "{\"fence_window_seconds\": 0}"] {
            assert!(Settings::decode(wrong.as_bytes()).is_err(), "{wrong}");
        }
        assert!(Settings::decode(b"{\"fence_window_seconds\": -1}").is_err());
    }
}
