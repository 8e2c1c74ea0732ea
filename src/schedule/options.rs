//! The keys of `scheduler_config.json` that only the exponential solvers read.

use super::config::{Config, Reader};
use crate::Result;
use serde_json::Value;

/// Which equation a solver integrates, and over which prediction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    /// The ordinary equation over the noise (Lu et al. 2022).
    DpmSolver,
    /// The ordinary equation over the picture (Lu et al. 2022b).
    DpmSolverPlusPlus,
    /// The stochastic equation over the noise.
    SdeDpmSolver,
    /// The stochastic equation over the picture.
    SdeDpmSolverPlusPlus,
    /// What `DEISMultistepScheduler` writes; DPM-Solver reads it as `dpmsolver++`.
    Deis,
}

impl Algorithm {
    /// The name in `scheduler_config.json`.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::DpmSolver => "dpmsolver",
            Algorithm::DpmSolverPlusPlus => "dpmsolver++",
            Algorithm::SdeDpmSolver => "sde-dpmsolver",
            Algorithm::SdeDpmSolverPlusPlus => "sde-dpmsolver++",
            Algorithm::Deis => "deis",
        }
    }

    /// Whether it integrates over the picture, not over the noise.
    pub(super) fn predicts_picture(self) -> bool {
        !matches!(self, Algorithm::DpmSolver | Algorithm::SdeDpmSolver)
    }

    /// Whether every step draws noise.
    pub(super) fn is_stochastic(self) -> bool {
        matches!(
            self,
            Algorithm::SdeDpmSolver | Algorithm::SdeDpmSolverPlusPlus
        )
    }
}

/// How a solver of order two or more uses its slopes. A scheduler that is given
/// another's takes its own default, as diffusers does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SolverType {
    Midpoint,
    Heun,
    LogRho,
    Bh1,
    Bh2,
}

/// Orders up to which the solvers go.
const MOST_ORDER: usize = 3;

impl Reader<'_> {
    /// The base with the solvers' keys laid over it.
    pub(super) fn solver_options(&self) -> Result<Config> {
        let mut config = self.base.clone();
        if self.flag("use_flow_sigmas")? == Some(true) {
            let allowed = "false: flow matching is not SDXL's";
            return Err(self.wrong("use_flow_sigmas", &Value::Bool(true), allowed));
        }
        if self.get("solver_order").is_some() {
            config.solver_order = Some(self.count("solver_order", 2, 1, MOST_ORDER)?);
        }
        self.solver_names(&mut config)?;
        let flags = [
            ("lower_order_final", &mut config.lower_order_final),
            ("euler_at_final", &mut config.euler_at_final),
            ("use_lu_lambdas", &mut config.use_lu_lambdas),
            ("predict_x0", &mut config.predict_x0),
            ("thresholding", &mut config.thresholding),
        ];
        for (key, flag) in flags {
            *flag = self.flag(key)?.or(*flag);
        }
        self.solver_numbers(&mut config)?;
        Ok(config)
    }

    fn solver_names(&self, config: &mut Config) -> Result<()> {
        let algorithms = [
            Algorithm::DpmSolver,
            Algorithm::DpmSolverPlusPlus,
            Algorithm::SdeDpmSolver,
            Algorithm::SdeDpmSolverPlusPlus,
            Algorithm::Deis,
        ]
        .map(|algorithm| (algorithm.name(), Some(algorithm)));
        config.algorithm_type =
            self.choice("algorithm_type", config.algorithm_type, &algorithms)?;
        config.solver_type = self.choice(
            "solver_type",
            config.solver_type,
            &[
                ("midpoint", Some(SolverType::Midpoint)),
                ("heun", Some(SolverType::Heun)),
                ("logrho", Some(SolverType::LogRho)),
                ("bh1", Some(SolverType::Bh1)),
                ("bh2", Some(SolverType::Bh2)),
            ],
        )?;
        Ok(())
    }

    fn solver_numbers(&self, config: &mut Config) -> Result<()> {
        let number = |key: &str, low: f64, high: f64| match self.get(key) {
            None => Ok(None),
            Some(value) => value
                .as_f64()
                .filter(|number| (low..=high).contains(number))
                .map(Some)
                .ok_or_else(|| self.wrong(key, value, &format!("a number from {low} to {high}"))),
        };
        let clip = number("lambda_min_clipped", -1e6, 1e6)?;
        config.lambda_min_clipped = clip.or(config.lambda_min_clipped);
        let ratio = number("dynamic_thresholding_ratio", 0.0, 1.0)?;
        config.dynamic_thresholding_ratio = ratio.or(config.dynamic_thresholding_ratio);
        let most = number("sample_max_value", 1e-6, 1e6)?;
        config.sample_max_value = most.or(config.sample_max_value);
        if let Some(value) = self.get("noise_sampler_seed") {
            let seed = value.as_u64().ok_or_else(|| {
                let allowed = "a whole number from 0 to 18446744073709551615";
                self.wrong("noise_sampler_seed", value, allowed)
            })?;
            config.noise_sampler_seed = Some(seed);
        }
        if let Some(value) = self.get("disable_corrector") {
            config.disable_corrector = Some(self.indices("disable_corrector", value)?);
        }
        Ok(())
    }

    fn indices(&self, key: &str, value: &Value) -> Result<Vec<usize>> {
        let index = |value: &Value| value.as_u64().and_then(|i| usize::try_from(i).ok());
        value
            .as_array()
            .and_then(|list| list.iter().map(index).collect())
            .ok_or_else(|| self.wrong(key, value, "a list of whole numbers from 0"))
    }
}
