//! `--what-if`: another backlog, another accept rate.

use anyhow::{Context, Result, bail, ensure};

use crate::verdict::{Question, Rate};

/// Reads `backlog=1024,accept-rate=+50%`.
pub(in crate::cli) fn parse(text: &str) -> Result<Question> {
    let mut question = Question::default();
    for part in text.split(',') {
        match part.trim().split_once('=') {
            Some(("backlog", value)) => {
                let backlog = value.parse().context("backlog takes a number, like backlog=1024")?;
                question.backlog = Some(backlog);
            }
            Some(("accept-rate", value)) => question.accept_rate = rate(value)?,
            _ => {
                bail!("takes backlog=N and accept-rate=+50% or accept-rate=200, joined by a comma")
            }
        }
    }
    Ok(question)
}

/// `+50%`, `-10%` or `200` per second.
fn rate(text: &str) -> Result<Rate> {
    let number = |text: &str| -> Result<f64> {
        let number: f64 = text.parse().context("accept-rate takes +50%, -10% or 200")?;
        ensure!(number.is_finite(), "accept-rate takes a finite number");
        Ok(number)
    };
    let rate = match text.strip_suffix('%') {
        Some(percent) => Rate::Times(1.0 + number(percent)? / 100.0),
        None => Rate::PerSecond(number(text)?),
    };
    let (Rate::Times(least) | Rate::PerSecond(least)) = rate else { return Ok(rate) };
    ensure!(least >= 0.0, "an accept rate must not be negative");
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_a_question() {
        let question = |backlog, accept_rate| Question { backlog, accept_rate };
        assert_eq!(parse("backlog=1024").unwrap(), question(Some(1024), Rate::Measured));
        assert_eq!(
            parse("backlog=64, accept-rate=+50%").unwrap(),
            question(Some(64), Rate::Times(1.5))
        );
        assert_eq!(parse("accept-rate=-10%").unwrap().accept_rate, Rate::Times(0.9));
        assert_eq!(parse("accept-rate=200").unwrap().accept_rate, Rate::PerSecond(200.0));
        for wrong in ["", "backlog", "backlog=-1", "rate=3", "accept-rate=-200%", "accept-rate=nan"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
