//! Who may import whom, read from cargo's own metadata.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Result, bail};
use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, PackageId};

use crate::workspace;

/// Every crate of ours with the crates of ours that it may depend on, in its tests too.
const ALLOWED: &[(&str, &[&str])] = &[
    ("ws-proto", &[]),
    ("ws-transport", &[]),
    ("ws-ipc", &[]),
    ("ws-session", &["ws-proto"]),
    (
        "ws-server",
        &["ws-proto", "ws-transport", "ws-ipc", "ws-session"],
    ),
    ("ws-cli", &["ws-server", "ws-proto"]),
    ("xtask", &[]),
];

/// The crates that decide and do no I/O.
const PURE: &[&str] = &["ws-proto", "ws-session"];

/// What a crate that does no I/O never needs, at any depth.
const IMPURE: &[&str] = &["mio", "nix", "rustix", "socket2", "tokio"];

/// The facts that the rules are about.
#[derive(Debug, Default)]
struct Graph {
    /// Each crate of the workspace, with the crates of the workspace in its manifest.
    imports: BTreeMap<String, BTreeSet<String>>,
    /// Each pure crate, with all crates that it is built from.
    closures: BTreeMap<String, BTreeSet<String>>,
}

pub(crate) fn run() -> Result<()> {
    let metadata = MetadataCommand::new()
        .current_dir(workspace::root())
        .other_options(["--locked".to_owned()])
        .exec()?;
    let graph = Graph::new(&metadata);
    let faults = graph.faults();
    for fault in &faults {
        println!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} edges that the design does not have", faults.len());
    }
    println!("{} crates keep their layers", graph.imports.len());
    Ok(())
}

impl Graph {
    fn new(metadata: &Metadata) -> Self {
        let ours: BTreeSet<&str> = metadata
            .workspace_packages()
            .iter()
            .map(|package| package.name.as_str())
            .collect();
        let mut graph = Self::default();
        for package in metadata.workspace_packages() {
            let imports = package
                .dependencies
                .iter()
                .filter(|it| ours.contains(it.name.as_str()))
                // A crate that asks itself for its `testing` feature in its own tests.
                .filter(|it| {
                    it.kind != DependencyKind::Development || it.name != package.name.as_str()
                })
                .map(|it| it.name.clone())
                .collect();
            graph.imports.insert(package.name.to_string(), imports);
            if PURE.contains(&package.name.as_str()) {
                graph
                    .closures
                    .insert(package.name.to_string(), closure(metadata, &package.id));
            }
        }
        graph
    }

    /// Every broken rule, as a line to read.
    fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        for (name, imports) in &self.imports {
            let Some((_, allowed)) = ALLOWED.iter().find(|it| it.0 == name) else {
                faults.push(format!("{name} has no place in the layers"));
                continue;
            };
            for import in imports {
                if !allowed.contains(&import.as_str()) {
                    faults.push(format!("{name} must not depend on {import}"));
                }
            }
        }
        for (name, closure) in &self.closures {
            for impure in IMPURE {
                if closure.contains(*impure) {
                    faults.push(format!("{name} does no I/O but is built from {impure}"));
                }
            }
        }
        faults
    }
}

/// The names of all crates that `root` is built from: normal dependencies at any depth.
fn closure(metadata: &Metadata, root: &PackageId) -> BTreeSet<String> {
    let nodes: BTreeMap<_, _> = metadata
        .resolve
        .iter()
        .flat_map(|resolve| &resolve.nodes)
        .map(|node| (&node.id, node))
        .collect();
    let mut seen = BTreeSet::new();
    let mut open = vec![root];
    while let Some(id) = open.pop() {
        if !seen.insert(id) {
            continue;
        }
        let dependencies = nodes.get(id).into_iter().flat_map(|node| &node.deps);
        open.extend(
            dependencies
                .filter(|it| {
                    it.dep_kinds
                        .iter()
                        .any(|kind| kind.kind == DependencyKind::Normal)
                })
                .map(|it| &it.pkg),
        );
    }
    seen.into_iter()
        .map(|id| metadata[id].name.to_string())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    /// The workspace as it should be.
    fn good() -> Graph {
        Graph {
            imports: ALLOWED
                .iter()
                .map(|(name, allowed)| ((*name).to_owned(), set(allowed)))
                .collect(),
            closures: PURE
                .iter()
                .map(|name| ((*name).to_owned(), set(&[name, "bytes"])))
                .collect(),
        }
    }

    #[test]
    fn allowed_edges_are_not_faults() {
        assert_eq!(good().faults(), Vec::<String>::new());
    }

    #[test]
    fn every_edge_that_is_not_in_the_table_is_a_fault() {
        for (from, allowed) in ALLOWED {
            for (to, _) in ALLOWED {
                let mut graph = good();
                graph.imports.insert((*from).to_owned(), set(&[to]));
                let faults = graph.faults();
                assert_eq!(faults.is_empty(), allowed.contains(to), "{from} -> {to}");
            }
        }
    }

    #[test]
    fn sibling_edge_is_named() {
        let mut graph = good();
        graph
            .imports
            .insert("ws-ipc".into(), set(&["ws-transport"]));
        assert_eq!(graph.faults(), ["ws-ipc must not depend on ws-transport"]);
    }

    #[test]
    fn runtime_below_a_pure_crate_is_a_fault() {
        let mut graph = good();
        graph
            .closures
            .insert("ws-session".into(), set(&["bytes", "tokio"]));
        assert_eq!(
            graph.faults(),
            ["ws-session does no I/O but is built from tokio"]
        );
    }

    #[test]
    fn crate_without_a_place_is_a_fault() {
        let mut graph = good();
        graph.imports.insert("ws-extra".into(), set(&[]));
        assert_eq!(graph.faults(), ["ws-extra has no place in the layers"]);
    }
}
