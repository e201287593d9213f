//! The settings of compaction.

use std::time::Duration;

use bottomless_history::{Policy, parse_interval};

use super::{Source, choice, setting};
use crate::error::Result;

pub(super) const SWITCH: &str = "COMPACTION";
pub(super) const LEVELS: [&str; 3] = ["LEVEL1_INTERVAL", "LEVEL2_INTERVAL", "LEVEL3_INTERVAL"];
pub(super) const SNAPSHOT: &str = "SNAPSHOT_INTERVAL";
pub(super) const RETENTION: &str = "RETENTION";

/// Whether the background keeps the history small.
pub(super) fn is_on(source: &dyn Source) -> Result<bool> {
    choice(source, SWITCH, true, &[("on", true), ("off", false)])
}

/// How often is merged and for how long is kept, whether or not the background does it.
///
/// # Errors
/// A wrong value.
pub fn policy(source: &dyn Source) -> Result<Policy> {
    let mut policy = Policy::default();
    for (level, key) in policy.levels.iter_mut().zip(LEVELS) {
        interval(source, key, level)?;
    }
    interval(source, SNAPSHOT, &mut policy.snapshot)?;
    interval(source, RETENTION, &mut policy.retention)?;
    Ok(policy)
}

fn interval(source: &dyn Source, key: &str, value: &mut Duration) -> Result<()> {
    if let Some(found) = setting(source, key) {
        *value = parse_interval(&found.value).map_err(|error| found.wrong(&error.to_string()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bottomless_history::Policy;

    use crate::config::tests::read;
    use crate::error::ErrorKind;

    #[test]
    fn compaction_is_on_with_the_intervals_of_the_table() {
        let config = read(&[], &[]).unwrap();
        assert!(config.compaction);
        assert_eq!(config.policy, Policy::default());
        assert!(!read(&[("LIBSQL_BOTTOMLESS_COMPACTION", "off")], &[]).unwrap().compaction);
        assert!(read(&[("LIBSQL_BOTTOMLESS_COMPACTION", "off")], &[("compaction", "on")]).unwrap().compaction);
    }

    #[test]
    fn each_interval_has_a_variable_and_a_parameter() {
        let variables = [
            ("LIBSQL_BOTTOMLESS_LEVEL1_INTERVAL", "1s"),
            ("LIBSQL_BOTTOMLESS_LEVEL2_INTERVAL", "0.5"),
            ("LIBSQL_BOTTOMLESS_SNAPSHOT_INTERVAL", "7d"),
            ("LIBSQL_BOTTOMLESS_RETENTION", "1h 30m"),
        ];
        let parameters = [("level2_interval", "3m"), ("level3_interval", "4m")];
        let policy = read(&variables, &parameters).unwrap().policy;
        assert_eq!(policy.levels.map(|time| time.as_secs()), [1, 180, 240]);
        assert_eq!((policy.snapshot.as_secs(), policy.retention.as_secs()), (604_800, 5400));
    }

    #[test]
    fn a_wrong_interval_is_refused_under_its_name_even_if_compaction_is_off() {
        for key in ["LEVEL1_INTERVAL", "LEVEL2_INTERVAL", "LEVEL3_INTERVAL", "SNAPSHOT_INTERVAL", "RETENTION"] {
            for value in ["soon", "0", "-1s"] {
                let name: &'static str = format!("LIBSQL_BOTTOMLESS_{key}").leak();
                let error = read(&[(name, value), ("LIBSQL_BOTTOMLESS_COMPACTION", "off")], &[]).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Configuration);
                assert!(error.to_string().contains(name) && error.to_string().contains("5m"), "{error}");
            }
        }
        let error = read(&[], &[("compaction", "yes")]).unwrap_err().to_string();
        assert!(error.contains("URI parameter compaction") && error.contains("on or off"), "{error}");
    }
}
