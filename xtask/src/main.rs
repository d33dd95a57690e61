//! `cargo xtask`: everything a developer or a CI machine does with Floodmark, one file per verb.

mod apt;
mod bench;
mod build;
mod dashboards;
mod demo;
mod dist;
mod docs;
mod fuzz;
mod lab;
mod manifests;
mod place;
mod process;
mod root;
mod run;
mod setup;
mod step;
mod supply;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Set up, build, run, demonstrate and test Floodmark.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    Setup(setup::Args),
    Build(build::Args),
    Run(run::Args),
    Test(test::Args),
    Vm(vm::Args),
    Demo(demo::Args),
    Bench(bench::Args),
    Lab(lab::Args),
    Dist(dist::Args),
    Manifests(manifests::Args),
    Supply(supply::Args),
    Fuzz(fuzz::Args),
    Docs(docs::Args),
    Dashboards(dashboards::Args),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().verb {
        Verb::Setup(args) => setup::main(&args),
        Verb::Build(args) => build::main(&args),
        Verb::Run(args) => run::main(&args),
        Verb::Test(args) => test::main(&args),
        Verb::Vm(args) => vm::main(&args),
        Verb::Demo(args) => demo::main(&args),
        Verb::Bench(args) => bench::main(&args),
        Verb::Lab(args) => lab::main(&args),
        Verb::Dist(args) => dist::main(&args),
        Verb::Manifests(args) => manifests::main(&args),
        Verb::Supply(args) => supply::main(&args),
        Verb::Fuzz(args) => fuzz::main(&args),
        Verb::Docs(args) => docs::main(&args),
        Verb::Dashboards(args) => dashboards::main(&args),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
