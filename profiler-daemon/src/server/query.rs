//! What a request asks for, from its query.

use std::{collections::HashMap, time::Duration};

/// The longest recording.
const MOST_SECONDS: u64 = 600;

/// How long a recording is that does not say, in seconds: as Go has it.
const SECONDS: u64 = 30;

/// What a request asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Query {
    /// For how long.
    pub(super) duration: Duration,
    /// Samples per second and CPU, in Hz.
    pub(super) hertz: u64,
    /// Begin so long ago, with what was recorded then.
    pub(super) ago: Option<Duration>,
    /// The answer as text: Go's `debug`.
    pub(super) debug: u8,
    /// Of locks those who wait, and not those who held them.
    pub(super) waiters: bool,
}

impl Query {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong.
    pub(super) fn parse(
        values: &HashMap<String, String>,
        default_hertz: u64,
        most_hertz: u64,
    ) -> Result<Self, String> {
        let number = |key: &str| match values.get(key).map(String::as_str) {
            None | Some("") => Ok(None),
            Some(text) => match text.parse::<u64>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(format!("{key} is a whole number, such as {key}=30")),
            },
        };
        let ago = values.get("from").filter(|text| !text.is_empty()).map(|text| ago(text));
        let ago = ago.transpose()?;
        let seconds = match number("seconds")?.filter(|&seconds| seconds > 0) {
            Some(seconds) if ago.is_none() && seconds > MOST_SECONDS => {
                return Err(format!("seconds is at most {MOST_SECONDS}"));
            }
            Some(seconds) => Duration::from_secs(seconds.min(24 * 3600)),
            None => ago.unwrap_or(Duration::from_secs(SECONDS)),
        };
        let hertz = match number("hz")? {
            Some(hertz) if hertz == 0 || hertz > most_hertz => {
                return Err(format!("hz is 1 to {most_hertz}"));
            }
            hertz => hertz.unwrap_or(default_hertz),
        };
        let debug = match number("debug")? {
            Some(debug) if debug > 2 => return Err("debug is 0, 1 or 2".into()),
            debug => debug.unwrap_or_default() as u8,
        };
        let waiters = match values.get("side").map(String::as_str) {
            None | Some("" | "holder") => false,
            Some("waiter") => true,
            Some(_) => return Err("side is holder or waiter".into()),
        };
        if waiters && ago.is_some() {
            return Err("side=waiter is recorded from now on: leave from out".into());
        }
        Ok(Self { duration: seconds, hertz, ago, debug, waiters })
    }
}

/// Reads `-5m`, `-90s`, `-1h`, `-300`.
fn ago(text: &str) -> Result<Duration, String> {
    const WRONG: &str = "from is a time before now, such as from=-5m";
    let text = text.strip_prefix('-').ok_or(WRONG)?;
    crate::cli::duration(text).map_err(|_| WRONG.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, is_root: bool) -> Result<Query, String> {
        let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
        let values = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Query::parse(&values, 99, if is_root { 10_000 } else { 999 })
    }

    #[test]
    fn go_clients_defaults() {
        let query = parse("", false).unwrap();
        assert_eq!((query.duration, query.hertz), (Duration::from_secs(30), 99));
        assert_eq!(parse("seconds=5", false).unwrap().duration, Duration::from_secs(5));
        assert_eq!(parse("seconds=0", false).unwrap().duration, Duration::from_secs(30));
    }

    #[test]
    fn limits_are_said() {
        assert_eq!(parse("seconds=601", true), Err("seconds is at most 600".into()));
        assert_eq!(parse("hz=1000", false), Err("hz is 1 to 999".into()));
        assert_eq!(parse("hz=1000", true).unwrap().hertz, 1000);
        for wrong in ["seconds=x", "seconds=-1", "hz=0", "debug=3", "from=5m", "from=-x", "side=x"]
        {
            assert!(parse(wrong, true).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_was_recorded() {
        let query = parse("from=-5m", false).unwrap();
        assert_eq!(
            (query.ago, query.duration),
            (Some(Duration::from_secs(300)), Duration::from_secs(300))
        );
        let query = parse("from=-1h&seconds=700", false).unwrap();
        assert_eq!(
            (query.ago, query.duration),
            (Some(Duration::from_secs(3600)), Duration::from_secs(700))
        );
    }
}
