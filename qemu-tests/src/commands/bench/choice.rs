//! What of a benchmark the command line asks for.

use anyhow::{Result, ensure};

/// What is left out or repeated, as the command line says.
#[derive(Clone, Debug, Default)]
pub(super) struct Choice {
    pub(super) quick: bool,
    pub(super) json: bool,
    /// Only these peers.
    pub(super) only: Vec<String>,
    /// Only these cases.
    pub(super) cases: Vec<String>,
    /// Turns per row, if not three.
    pub(super) runs: Option<usize>,
}

impl Choice {
    /// Fails if a case is asked for that is not one of these.
    pub(super) fn knows_cases(&self, names: &[&str]) -> Result<()> {
        for name in &self.cases {
            ensure!(
                names.contains(&name.as_str()),
                "there is no case {name}; there are {}",
                names.join(", ")
            );
        }
        Ok(())
    }

    /// What a run with these options leaves out; `quick`: of the reduced form.
    pub(super) fn left_out(&self, quick: &'static str) -> &'static str {
        if self.quick {
            quick
        } else if self.cases.is_empty() && self.only.is_empty() && self.runs.is_none() {
            "nothing"
        } else {
            "what the options leave out"
        }
    }

    pub(super) fn has_case(&self, name: &str) -> bool {
        self.cases.is_empty() || self.cases.iter().any(|case| case == name)
    }

    /// The same where the reduced form has only the case `quick` unless others are named.
    pub(super) fn chooses(&self, name: &str, quick: &str) -> bool {
        self.has_case(name) && !(self.quick && self.cases.is_empty() && name != quick)
    }

    /// Turns per row: as many as were asked for, else one in the reduced form and `full` in the full one.
    pub(super) fn turns(&self, full: usize) -> usize {
        self.runs.unwrap_or(if self.quick { 1 } else { full })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(quick: bool, cases: &[&str], runs: Option<usize>) -> Choice {
        let cases = cases.iter().map(ToString::to_string).collect();
        Choice { quick, cases, runs, ..Choice::default() }
    }

    #[test]
    fn the_reduced_form_has_its_own_case_unless_others_are_named() {
        let chosen = |choice: &Choice| ["a", "b", "c"].map(|name| choice.chooses(name, "b"));
        assert_eq!(chosen(&choice(false, &[], None)), [true, true, true]);
        assert_eq!(chosen(&choice(true, &[], None)), [false, true, false]);
        assert_eq!(chosen(&choice(true, &["c"], None)), [false, false, true]);
        assert_eq!(chosen(&choice(false, &["a", "b"], None)), [true, true, false]);
    }

    #[test]
    fn turns_are_as_many_as_were_asked_for() {
        assert_eq!(choice(false, &[], None).turns(3), 3);
        assert_eq!(choice(true, &[], None).turns(3), 1);
        assert_eq!(choice(true, &[], Some(7)).turns(3), 7);
    }

    #[test]
    fn a_report_says_what_is_left_out() {
        assert_eq!(choice(false, &[], None).left_out("most"), "nothing");
        assert_eq!(choice(true, &["a"], None).left_out("most"), "most");
        assert_eq!(choice(false, &["a"], None).left_out("most"), "what the options leave out");
        assert_eq!(choice(false, &[], Some(1)).left_out("most"), "what the options leave out");
    }

    #[test]
    fn an_unknown_case_is_refused_with_those_that_there_are() {
        let error = choice(false, &["a", "x"], None).knows_cases(&["a", "b"]).unwrap_err();
        assert_eq!(error.to_string(), "there is no case x; there are a, b");
        assert!(choice(false, &["b"], None).knows_cases(&["a", "b"]).is_ok());
    }
}
