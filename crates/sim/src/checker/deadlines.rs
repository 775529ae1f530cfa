//! What deadlines tell, where it is known how wrong clocks may be: a token must be there before its deadline, and gone after.
//!
//! Whoever puts a token may give it a deadline, or let it take over that of what it replaces; and others may give it another, or
//! none. All of them were told that it was there, so all came before it was gone; and only one of those that nobody certainly
//! came behind can have had the last word. What is not allowed by any of these is not allowed.

use super::history::{Token, Until};
use super::registers::Judge;
use super::report::{Anomaly, Violation};

/// Rounding to milliseconds, here and there, and stamps that run ahead by what is written within one.
const SLACK_MS: u64 = 20;
const MS: u64 = 1_000_000;

/// Who set a deadline, and which.
type Setting = (usize, Until);

impl Judge<'_> {
    /// Every deadline that a token was ever given. `None` if there may be others.
    fn settings(&self, token: Token) -> Option<Vec<Setting>> {
        let register = self.register;
        let (mut found, mut token) = (Vec::new(), token);
        // No token has more ancestors than there are tokens, unless the history makes no sense.
        for _ in 0..=register.lives.len() {
            found.extend(register.expires.get(&token).into_iter().flatten().copied());
            let (writer, until) = *register.lives.get(&token)?;
            if until != Until::Kept {
                found.push((writer, until));
                return Some(found);
            }
            token = *register.heir_of.get(&token)?;
        }
        None
    }

    /// Those of some settings that may have been the last of them, among those that came before a moment.
    fn last_words(&self, settings: &[Setting], before: u64) -> Vec<Setting> {
        let overruled = |id: usize| {
            let later = |(other, _): &Setting| {
                self.transaction(*other).invoked > self.completed(id) && self.completed(*other) < before
            };
            settings.iter().any(later)
        };
        settings.iter().copied().filter(|(id, _)| !overruled(*id)).collect()
    }

    /// When it has passed by every clock.
    fn latest(&self, (id, until): Setting, error_ms: u64) -> u64 {
        match until {
            Until::Never | Until::Kept => u64::MAX,
            Until::After(ms) => self.completed(id).saturating_add((ms + 2 * error_ms) * MS),
            Until::At(ms) => (ms + 2 * error_ms) * MS,
        }
    }

    /// Before when it has passed by no clock.
    fn earliest(&self, (id, until): Setting, error_ms: u64) -> u64 {
        match until {
            Until::Never | Until::Kept => u64::MAX,
            Until::After(ms) => (self.transaction(id).invoked + ms * MS).saturating_sub(2 * error_ms * MS),
            Until::At(ms) => (ms * MS).saturating_sub(2 * error_ms * MS),
        }
    }

    /// Found, although its deadline has passed by every clock.
    pub(super) fn outlived(&self, error_ms: u64) -> Option<Violation> {
        let error_ms = error_ms + SLACK_MS;
        // What nobody knows may have given it any deadline.
        let doubtful_from = self.register.unknown_expires.iter().min().copied().unwrap_or(u64::MAX);
        self.register.lives.iter().find_map(|(token, (writer, _))| {
            let readers = self.register.readers.get(token)?;
            let settings = self.settings(*token)?;
            let late = readers.iter().copied().find(|reader| {
                // What it set itself came after what it saw.
                let others: Vec<Setting> = settings.iter().copied().filter(|(id, _)| id != reader).collect();
                let asked = self.transaction(*reader).invoked;
                let last = self.last_words(&others, asked);
                reader != writer
                    && !last.is_empty()
                    && self.completed(*reader) < doubtful_from
                    && last.iter().all(|setting| self.latest(*setting, error_ms) < asked)
            })?;
            let text = format!("{token} is there after its deadline");
            let ids = settings.iter().map(|(id, _)| *id).filter(|id| *id != late).chain([late]);
            Some(self.violation(Anomaly::Outlived, &text, ids))
        })
    }

    /// Not found, although its deadline has passed by no clock, and nobody can have taken or replaced it.
    pub(super) fn vanished(&self, error_ms: u64) -> Option<Violation> {
        let error_ms = error_ms + SLACK_MS;
        let doubtful_from = self.register.unknown.iter().min().copied().unwrap_or(u64::MAX);
        self.register.lives.iter().find_map(|(token, (writer, _))| {
            if self.register.replaced.contains_key(token) {
                return None;
            }
            let settings = self.settings(*token)?;
            let last = self.last_words(&settings, u64::MAX);
            let until = last.iter().map(|setting| self.earliest(*setting, error_ms)).min()?.min(doubtful_from);
            let put = self.completed(*writer);
            let (missed, _) = *self.register.looks.iter().find(|(id, saw)| {
                saw.is_none() && self.transaction(*id).invoked > put && self.completed(*id) < until
            })?;
            let text = format!("{token} is not there, and nobody can have removed it");
            let ids = settings.iter().map(|(id, _)| *id).filter(|id| id != writer);
            Some(self.violation(Anomaly::Vanished, &text, [*writer].into_iter().chain(ids).chain([missed])))
        })
    }
}
