//! Quantiles of the symmetric beta distribution.

/// The `p`-quantile of the beta distribution with both parameters `a`, by
/// bisection: the value below which a share of `p` lies.
pub(super) fn beta_quantile(p: f64, a: f64) -> f64 {
    if p > 0.5 {
        // The distribution is symmetric, and small values keep more digits.
        return 1.0 - beta_quantile(1.0 - p, a);
    }
    if p <= 0.0 {
        return 0.0;
    }
    let (mut low, mut high) = (0.0f64, 0.5f64);
    for _ in 0..200 {
        let middle = 0.5 * (low + high);
        match share_below(middle, a) < p {
            true => low = middle,
            false => high = middle,
        }
    }
    0.5 * (low + high)
}

/// The regularised incomplete beta function `I_x(a, a)` for `x ≤ 1/2`, by its
/// power series `x^a Σ (1−a)_n x^n / (n! (a+n)) / B(a, a)`.
///
/// At 1/2 it is 1/2 by symmetry, which gives `B(a, a)` without a gamma function.
fn share_below(x: f64, a: f64) -> f64 {
    0.5 * series(x, a) / series(0.5, a)
}

fn series(x: f64, a: f64) -> f64 {
    let (mut factor, mut sum) = (1.0, 1.0 / a);
    for n in 1..200 {
        let n = f64::from(n);
        factor *= (n - a) / n * x;
        sum += factor / (a + n);
        if factor < 1e-18 * sum {
            break;
        }
    }
    x.powf(a) * sum
}

#[cfg(test)]
mod tests {
    use super::beta_quantile;

    /// Against `scipy.stats.beta.ppf(p, 0.6, 0.6)`.
    #[test]
    fn quantiles_are_scipys() {
        for (p, expected) in SCIPY {
            let found = beta_quantile(p, 0.6);
            assert!((found - expected).abs() <= 1e-12, "{p}: {found} {expected}");
        }
    }

    const SCIPY: [(f64, f64); 8] = [
        (1e-06, 1.8558824624053043e-10),
        (0.001, 1.855873851745199e-05),
        (0.05, 0.012554456873611399),
        (0.25, 0.17568037865269498),
        (0.49, 0.4861289142781599),
        (0.5, 0.5),
        (0.75, 0.824319621347305),
        (0.99, 0.9991387611784571),
    ];
}
