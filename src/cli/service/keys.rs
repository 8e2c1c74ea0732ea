//! `calotype keys`.

use crate::cli::{error, output};
use anyhow::Result;
use calotype::Error;
use calotype::server::ledger::{Balance, KeyInfo, Place, Usage, check_new};
use console::{Alignment, measure_text_width, pad_str};
use serde::Serialize;
use std::path::PathBuf;

/// Make, list and revoke the keys of the HTTP service, and grant them credits
#[derive(clap::Args)]
pub struct Args {
    /// Keys and credits: a file, which `add` makes, or postgres://user@host/database, whose
    /// password may be in PGPASSWORD. --keys means the same
    #[arg(
        long,
        alias = "keys",
        value_name = "PLACE",
        env = "CALOTYPE_LEDGER",
        hide_env_values = true,
        global = true
    )]
    ledger: Option<Place>,

    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(clap::Subcommand)]
enum Action {
    /// Make a key and print its secret, which is shown this once
    Add {
        /// Who it is for: 1 to 64 printable characters
        name: String,
        /// What it can spend
        #[arg(long, value_name = "N", value_parser = crate::cli::generate::whole, allow_negative_numbers = true)]
        credits: i64,
    },
    /// List the keys and their credits, revoked ones too
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Shut a key for good
    Revoke { name: String },
    /// Give a key more credits
    Grant {
        name: String,
        /// How many more
        #[arg(long, value_name = "N", value_parser = crate::cli::generate::whole, allow_negative_numbers = true)]
        credits: i64,
    },
    /// Copy the file, as it is at one moment, while a service may use it
    Backup {
        /// A new file
        file: PathBuf,
    },
    /// Remove charges that ended long ago; the sums of each key, and its latest charge, stay
    Prune {
        /// How long ago
        #[arg(long, value_name = "N")]
        days: u32,
    },
    /// List the latest charges, latest first
    Usage {
        /// Of this key alone
        name: Option<String>,
        /// How many at most
        #[arg(
            long,
            value_name = "N",
            default_value_t = 20,
            allow_negative_numbers = true
        )]
        last: usize,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

#[derive(Serialize)]
struct Keys {
    keys: Vec<KeyInfo>,
}

#[derive(Serialize)]
struct Charges {
    charges: Vec<Usage>,
}

/// Does what is asked with the file of keys.
pub fn run(args: &Args) -> Result<()> {
    let Some(action) = &args.action else {
        let allowed = "choose one of add, list, revoke, grant, usage, backup, prune";
        return Err(Error::invalid("the action of keys", "missing", allowed).into());
    };
    let place = args.ledger.clone().or_else(older_name).ok_or_else(|| {
        let allowed = "name the file of keys or their database, or set CALOTYPE_LEDGER";
        Error::invalid("ledger", "missing", allowed)
    })?;
    place.check()?;
    let place = &place;
    match action {
        Action::Add { name, credits } => add(place, name, *credits),
        Action::List { json } => {
            let keys = place.open_existing()?.list()?;
            match json {
                true => output::json(&Keys { keys }),
                false => output::line(&table(&KEYS, keys.iter().map(key_row))),
            }
        }
        Action::Revoke { name } => Ok(place.open_existing()?.revoke(name)?),
        Action::Grant { name, credits } => {
            let balance = place.open_existing()?.grant(name, *credits)?;
            output::line(&describe(&balance))
        }
        Action::Backup { file } => Ok(place.open_existing()?.backup(file)?),
        Action::Prune { days } => {
            let removed = place.open_existing()?.prune(*days)?;
            output::line(&format!("{removed} charges removed"))
        }
        Action::Usage { name, last, json } => {
            let charges = place.open_existing()?.usage(name.as_deref(), *last)?;
            match json {
                true => output::json(&Charges { charges }),
                false => output::line(&table(&CHARGES, charges.iter().map(charge_row))),
            }
        }
    }
}

/// What the environment says by the older name of `CALOTYPE_LEDGER`.
pub(super) fn older_name() -> Option<Place> {
    std::env::var_os("CALOTYPE_KEYS").map(Place::from)
}

fn add(place: &Place, name: &str, credits: i64) -> Result<()> {
    // Before the file is made.
    let name = check_new(name, credits)?;
    let secret = place.open()?.add(name, credits)?;
    output::line(&secret)?;
    eprintln!("this is the secret of {name:?}: keep it, it is not shown again");
    Ok(())
}

fn describe(balance: &Balance) -> String {
    format!(
        "{} remaining, {} reserved, {} spent, {} granted",
        balance.remaining, balance.reserved, balance.spent, balance.granted
    )
}

const KEYS: [&str; 8] = [
    "name",
    "remaining",
    "reserved",
    "spent",
    "granted",
    "created",
    "last used",
    "revoked",
];

fn key_row(key: &KeyInfo) -> [String; 8] {
    let or_dash = |time: &Option<String>| time.clone().unwrap_or_else(|| "-".into());
    [
        key.name.clone(),
        key.balance.remaining.to_string(),
        key.balance.reserved.to_string(),
        key.balance.spent.to_string(),
        key.balance.granted.to_string(),
        key.created.clone(),
        or_dash(&key.last_used),
        or_dash(&key.revoked),
    ]
}

const CHARGES: [&str; 10] = [
    "created", "key", "credits", "state", "samples", "steps", "size", "refiner", "route", "request",
];

fn charge_row(charge: &Usage) -> [String; 10] {
    [
        charge.created.clone(),
        charge.key.clone(),
        charge.amount.to_string(),
        charge.state.clone(),
        charge.samples.to_string(),
        charge.steps.to_string(),
        format!("{}x{}", charge.width, charge.height),
        if charge.refiner { "yes" } else { "no" }.into(),
        charge.route.clone(),
        // Some clients choose it themselves.
        error::one_line(&charge.request_id),
    ]
}

/// Columns of even width under their titles.
pub fn table<const N: usize>(
    titles: &[&str; N],
    rows: impl Iterator<Item = [String; N]>,
) -> String {
    let rows: Vec<[String; N]> = [titles.map(str::to_owned)]
        .into_iter()
        .chain(rows)
        .collect();
    let width = |column: usize| {
        let cells = rows.iter().map(|row| measure_text_width(&row[column]));
        cells.max().unwrap_or_default()
    };
    let widths: [usize; N] = std::array::from_fn(width);
    let line = |row: &[String; N]| {
        let cells = row.iter().zip(widths);
        let cells: Vec<_> = cells
            .map(|(cell, width)| pad_str(cell, width, Alignment::Left, None))
            .collect();
        cells.join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}
