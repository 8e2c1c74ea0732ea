//! Which kernels may be trusted on a device: those that passed their self-tests there.

use super::product::Family;
use super::{Context, View};
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A name in this variable makes the self-tests of that family fail, to see that the
/// next one takes its place.
pub const FAIL_SELF_TEST: &str = "CALOTYPE_FAIL_SELF_TEST";

/// The result of a self-test.
struct Tested {
    /// The kernel's name.
    kernel: String,
    /// `None` where it passed.
    problem: Option<String>,
}

/// The results of the self-tests on a device, by what tells pipelines apart.
#[derive(Default)]
pub struct Trust(Mutex<BTreeMap<String, Tested>>);

impl Trust {
    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Tested>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Every kernel that failed, and how.
    pub fn failures(&self) -> Vec<(String, String)> {
        let known = self.known();
        let failed = known
            .values()
            .filter_map(|tested| Some((tested.kernel.clone(), tested.problem.clone()?)));
        failed.collect()
    }

    /// How many passed.
    pub fn passed(&self) -> usize {
        let known = self.known();
        known.values().filter(|t| t.problem.is_none()).count()
    }

    /// Whether the pipeline `key` of `kernel` passed its self-test, which runs when it is
    /// first asked for and says what is wrong.
    ///
    /// # Errors
    /// Those of `test`, other than of the kernel itself.
    pub(super) fn passes(
        &self,
        key: String,
        kernel: &dyn Display,
        family: Family,
        test: impl FnOnce() -> Result<Option<String>>,
    ) -> Result<bool> {
        let mut known = self.known();
        if let Some(tested) = known.get(&key) {
            return Ok(tested.problem.is_none());
        }
        let problem = match std::env::var(FAIL_SELF_TEST) {
            Ok(name) if name == family.name() => Some(format!("{FAIL_SELF_TEST} asks for it")),
            _ => match test() {
                Ok(problem) => problem,
                Err(Error::Adapter { problem, .. }) => Some(problem),
                Err(other) => return Err(other),
            },
        };
        if let Some(problem) = &problem {
            tracing::warn!("{kernel} failed its self-test, others take its place: {problem}");
        }
        let passed = problem.is_none();
        let kernel = kernel.to_string();
        known.insert(key, Tested { kernel, problem });
        Ok(passed)
    }
}

/// Bits of which no two neighbours have the same, for the numbers of a self-test.
pub(super) fn mixed(i: usize, seed: usize) -> u64 {
    let spread = (i as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    spread ^ (seed as u64).wrapping_mul(0x2545_f491)
}

/// A buffer of `bytes`, for a self-test.
pub(super) fn upload(context: &Context, bytes: &[u8]) -> Result<View> {
    let size = (bytes.len() as u64).next_multiple_of(16);
    let buffer = Arc::new(context.gpu.buffer("self-test", size)?);
    let mut padded = bytes.to_vec();
    padded.resize(size as usize, 0xff);
    context.gpu.upload(&buffer, &padded)?;
    Ok(View::whole(&buffer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_runs_once_and_failures_have_names() {
        let trust = Trust::default();
        let mut runs = 0;
        for (key, kernel, problem) in [
            ("a", "good", None),
            ("b", "bad", Some("7 in place of 8".to_string())),
            ("a", "good", Some("not asked again".into())),
            ("b", "bad", None),
        ] {
            let test = || {
                runs += 1;
                Ok(problem)
            };
            let passes = trust.passes(key.into(), &kernel, Family::Coop16, test);
            assert_eq!(passes.unwrap(), kernel == "good");
        }
        let broken = || Err(Error::internal("a test", "no room"));
        let passes = trust.passes("c".into(), &"other", Family::Coop16, broken);
        assert!(passes.is_err());
        assert_eq!(runs, 2);
        assert_eq!(trust.passed(), 1);
        let failures = trust.failures();
        assert_eq!(failures, [("bad".into(), "7 in place of 8".into())]);
    }
}
