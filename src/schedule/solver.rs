//! The keys of `scheduler_config.json` that only the exponential solvers read.

use super::config::Config;
use super::read::Reader;
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
    /// Lays the solvers' keys over `config`.
    pub(super) fn solver(&self, config: &mut Config) -> Result<()> {
        if self.flag("use_flow_sigmas")? == Some(true) {
            let allowed = "false: flow matching is not SDXL's";
            return Err(self.wrong("use_flow_sigmas", &Value::Bool(true), allowed));
        }
        let order = self.count("solver_order", 1, MOST_ORDER)?;
        config.solver_order = order.or(config.solver_order);
        let flags = [
            ("lower_order_final", &mut config.lower_order_final),
            ("euler_at_final", &mut config.euler_at_final),
            ("use_lu_lambdas", &mut config.use_lu_lambdas),
            ("predict_x0", &mut config.predict_x0),
        ];
        for (key, flag) in flags {
            *flag = self.flag(key)?.or(*flag);
        }
        self.solver_names(config)?;
        let allowed = "a number from -1e6 to 1e6";
        let clip = self.number("lambda_min_clipped", allowed, |n| n.abs() <= 1e6)?;
        config.lambda_min_clipped = clip.or(config.lambda_min_clipped);
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

    fn solver_names(&self, config: &mut Config) -> Result<()> {
        let algorithms = [
            Algorithm::DpmSolver,
            Algorithm::DpmSolverPlusPlus,
            Algorithm::SdeDpmSolver,
            Algorithm::SdeDpmSolverPlusPlus,
            Algorithm::Deis,
        ]
        .map(|algorithm| (algorithm.name(), algorithm));
        let algorithm = self.choice("algorithm_type", &algorithms)?;
        config.algorithm_type = algorithm.or(config.algorithm_type);
        let types = [
            ("midpoint", SolverType::Midpoint),
            ("heun", SolverType::Heun),
            ("logrho", SolverType::LogRho),
            ("bh1", SolverType::Bh1),
            ("bh2", SolverType::Bh2),
        ];
        let kind = self.choice("solver_type", &types)?;
        config.solver_type = kind.or(config.solver_type);
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
