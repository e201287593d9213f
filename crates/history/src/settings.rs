//! What all users of a database must agree on: an object beside its history.

use std::time::{Duration, SystemTime};

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
    /// What it was before the object was written: who has not read the object yet may count on this one.
    pub fence_window_before: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self::of_window(Self::DEFAULT_WINDOW)
    }
}

/// Bytes of the object that are read; there are far fewer.
const LONGEST: u64 = 1 << 20;

/// The object's content. What a newer version may have added is passed over.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    /// Seconds; fractions are allowed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fence_window_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fence_window_before_seconds: Option<f64>,
}

/// Why the content is not understood.
#[derive(Debug, thiserror::Error)]
pub enum InvalidSettings {
    /// Not the JSON that it should be.
    #[error("it is not the JSON that is expected: {0}")]
    Json(#[from] serde_json::Error),
    /// Not a duration.
    #[error("{0} is {1}, which is not a number of seconds greater than zero")]
    Seconds(&'static str, f64),
}

impl Settings {
    const DEFAULT_WINDOW: Duration = Duration::from_secs(60 * 60);

    /// With this fence window, and the default one before.
    #[must_use]
    pub const fn of_window(fence_window: Duration) -> Self {
        Self { fence_window, fence_window_before: Self::DEFAULT_WINDOW }
    }

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
        let window = |name, seconds: Option<f64>| {
            let Some(seconds) = seconds else { return Ok(Self::DEFAULT_WINDOW) };
            let window = Duration::try_from_secs_f64(seconds).ok().filter(|window| !window.is_zero());
            window.ok_or(InvalidSettings::Seconds(name, seconds))
        };
        Ok(Self {
            fence_window: window("fence_window_seconds", content.fence_window_seconds)?,
            fence_window_before: window("fence_window_before_seconds", content.fence_window_before_seconds)?,
        })
    }

    /// The content of the object.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let before = Some(self.fence_window_before).filter(|before| *before != Self::DEFAULT_WINDOW);
        let content = Content {
            fence_window_seconds: Some(self.fence_window.as_secs_f64()),
            fence_window_before_seconds: before.map(|before| before.as_secs_f64()),
        };
        serde_json::to_vec(&content).unwrap_or_default()
    }

    /// The fence window that counts for deleting: a writer that has not read new settings yet counts on the longer one, for as
    /// long as its last listing counts by that.
    ///
    /// `modified` says when the object was written that these settings were read from, `now` what time it was before the
    /// objects were listed; both by the store's clock.
    #[must_use]
    pub fn deletion_window(&self, modified: Option<SystemTime>, now: SystemTime) -> Duration {
        let is_past =
            |modified: SystemTime| modified.checked_add(self.fence_window_before).is_some_and(|end| end < now);
        if modified.is_none_or(is_past) { self.fence_window } else { self.fence_window.max(self.fence_window_before) }
    }
}

impl History {
    /// The settings of the database that was listed: a request only where there is such an object.
    ///
    /// # Errors
    /// Those of the store, and [`HistoryError::Settings`].
    pub async fn settings(&self, listing: &Listing) -> Result<Settings, HistoryError> {
        Ok(self.dated_settings(listing).await?.0)
    }

    /// The same, and when they were written.
    pub(crate) async fn dated_settings(
        &self,
        listing: &Listing,
    ) -> Result<(Settings, Option<SystemTime>), HistoryError> {
        let Some(Object { key, .. }) = listing.settings() else {
            return Ok((Settings::default(), None));
        };
        match self.bucket().get_end(key, LONGEST).await.map_err(HistoryError::from) {
            Ok((content, object)) => match Settings::decode(&content) {
                Ok(settings) => Ok((settings, Some(object.modified))),
                Err(cause) => Err(HistoryError::Settings { key: key.clone(), cause }),
            },
            // Taken away since it was listed.
            Err(error) if error.is_vanished() => Ok((Settings::default(), None)),
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
        for seconds in [1.5, 60.0, 3600.0, 86_400.0] {
            let window = Duration::from_secs_f64(seconds);
            for settings in
                [Settings::of_window(window), Settings { fence_window_before: window, ..Settings::default() }]
            {
                assert_eq!(Settings::decode(&settings.encode()).unwrap(), settings);
            }
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
        let error = Settings::decode(b"{\"fence_window_before_seconds\": 0}").unwrap_err().to_string();
        assert!(error.starts_with("fence_window_before_seconds is 0"), "{error}");
    }

    #[test]
    fn a_shorter_window_counts_for_deletion_once_the_longer_one_has_passed() {
        let at = |seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let window = |settings: Settings, modified: Option<u64>, now| {
            settings.deletion_window(modified.map(at), at(now)).as_secs()
        };
        let seconds = Duration::from_secs;
        let shorter = Settings::of_window(seconds(60));
        assert_eq!(window(shorter, Some(1000), 4600), 3600);
        assert_eq!(window(shorter, Some(1000), 4601), 60);
        let longer = Settings { fence_window: seconds(600), fence_window_before: seconds(60) };
        assert_eq!(window(longer, Some(1000), 1001), 600);
        assert_eq!(window(longer, Some(1000), 9999), 600);
        assert_eq!(window(Settings::default(), None, 8), 3600);
    }
}
