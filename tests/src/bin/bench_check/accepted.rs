//! What is stored of the last accepted run, and how a later one differs from it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::figures::BENCHES;

/// Prints all costs beside the accepted ones. Gives whether no loss is larger than `most` percent.
pub(crate) fn tell(
    medians: &BTreeMap<&str, f64>,
    accepted: &BTreeMap<String, f64>,
    most: f64,
) -> bool {
    let mut is_well = true;
    println!("| cost | now | accepted | change | |\n|---|---|---|---|---|");
    for (name, now) in medians {
        let Some(before) = accepted.get(*name) else {
            println!("| {name} | {now:.2} | - | - | |");
            continue;
        };
        let percent = (now / before - 1.0) * 100.0;
        let verdict = if percent > most { "LOSS" } else { "" };
        is_well &= percent <= most;
        println!("| {name} | {now:.2} | {before:.2} | {percent:+.1} % | {verdict} |");
    }
    if !is_well {
        eprintln!(
            "warning: a loss of more than {most} %. If nothing else was at work and it is there again, find its \
             cause, or accept it with `make bench-check ACCEPT=1`"
        );
    }
    is_well
}

/// The costs of the last accepted run.
pub(crate) fn accepted(file: &Path) -> Result<BTreeMap<String, f64>, String> {
    let none = |why: &dyn std::fmt::Display| {
        format!("{}: {why}; `make bench-check ACCEPT=1` makes it", file.display())
    };
    let text = fs::read_to_string(file).map_err(|error| none(&error))?;
    let stored: Value = serde_json::from_str(&text).map_err(|error| none(&error))?;
    let costs = stored["costs"].as_object().ok_or_else(|| none(&"it holds no costs"))?;
    Ok(costs.iter().filter_map(|(name, cost)| Some((name.clone(), cost.as_f64()?))).collect())
}

/// Stores costs, beside those that were stored and not measured now.
pub(crate) fn store(file: &Path, medians: &BTreeMap<&str, f64>) -> Result<(), String> {
    let mut costs = accepted(file).unwrap_or_default();
    costs.extend(medians.iter().map(|(name, cost)| ((*name).to_owned(), *cost)));
    costs.retain(|name, _| BENCHES.iter().any(|it| it.figures.iter().any(|it| it.name == name)));
    let stored = json!({
        "what": "costs in steps of a fixed loop, or ratios; less is better; see tests/src/bin/bench_check",
        "costs": costs,
    });
    // A value made of numbers and names can always be printed.
    let text = serde_json::to_string_pretty(&stored).unwrap_or_default() + "\n";
    fs::write(file, text).map_err(|error| format!("cannot write {}: {error}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_and_a_gain_is_not() {
        let accepted = BTreeMap::from([("a".to_owned(), 1.0)]);
        let is_well = |now| tell(&BTreeMap::from([("a", now)]), &accepted, 15.0);
        assert!(is_well(1.14) && is_well(0.5));
        assert!(!is_well(1.16));
        assert!(tell(&BTreeMap::from([("new", 9.0)]), &accepted, 15.0));
    }

    #[test]
    fn what_is_accepted_is_found_again() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let name = BENCHES[0].figures[0].name;
        store(file.path(), &BTreeMap::from([(name, 1.5), ("gone since", 2.0)])).unwrap();
        assert_eq!(accepted(file.path()).unwrap(), BTreeMap::from([(name.to_owned(), 1.5)]));
        assert!(accepted(Path::new("/no/such")).unwrap_err().contains("ACCEPT=1"));
    }
}
