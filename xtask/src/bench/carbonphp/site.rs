//! Sites to serve: the application of the bridge's tests, as it is or with classes enough for one in use.

use std::fmt::{self, Write as _};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};
use std::{env, result};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::{process, workspace};

/// Names the CarbonPHP, for the tests too.
const ROOT: &str = "WS_CARBONPHP_ROOT";
const MAKE_SITE: &str = "ws-ipc/shims/tests/carbonphp/make-site.php";
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// Classes that the larger site loads at boot.
const CLASSES: u32 = 500;
/// Of each class, the columns of its array and the methods.
const COLUMNS: u32 = 12;

/// Of the files of a site.
const AGE: Duration = Duration::from_secs(3600);

/// The only file of the original that is not as it came.
const FORKS_IN: &str = "WsFileStreams.php";
/// There the result is compared with 1 to see whether this is the parent, so that parents run the
/// callback as well, and end.
const FORK: &str = "switch (pcntl_fork()) {";
/// All positive results become that 1.
const FORK_REPAIRED: &str = "switch (min(1, pcntl_fork())) {";

/// How much a site loads at boot, and a fork has to copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Size {
    Small,
    Large,
}

impl Size {
    pub(super) const ALL: [Self; 2] = [Self::Small, Self::Large];
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Small => f.write_str("as it is"),
            Self::Large => write!(f, "with {CLASSES} classes"),
        }
    }
}

/// A CarbonPHP, and a copy of it that can serve more than one message.
#[derive(Debug)]
pub(super) struct CarbonPhp {
    php: PathBuf,
    root: PathBuf,
    repaired: TempDir,
}

impl CarbonPhp {
    /// The one that the environment names; if there is none to be measured, why.
    pub(super) fn find() -> Result<result::Result<Self, String>> {
        let Some(root) = env::var_os(ROOT).filter(|root| !root.is_empty()) else {
            return Ok(Err(format!("{ROOT} names no CarbonPHP")));
        };
        let Some(php) = workspace::find("php") else {
            return Ok(Err("there is no php".to_owned()));
        };
        let root = fs::canonicalize(&root).with_context(|| format!("{ROOT}: {root:?}"))?;
        let repaired = repaired_copy(&root)?;
        Ok(Ok(Self {
            php,
            root,
            repaired,
        }))
    }

    pub(super) fn php(&self) -> &Path {
        &self.php
    }

    /// Makes a site in a folder, with nothing of CarbonPHP's changed.
    pub(super) fn make_site(&self, size: Size, folder: &Path) -> Result<()> {
        self.make(&self.root, size, folder)?;
        configure(folder, "return [];")
    }

    /// Makes a site that CarbonPHP's own server can serve, on this port.
    pub(super) fn make_site_of_original(&self, size: Size, folder: &Path, port: u16) -> Result<()> {
        self.make(self.repaired.path(), size, folder)?;
        // Its server needs the constant of WordPress's, to write to a .htaccess.
        let code = format!(
            "define('ABSPATH', __DIR__);\n\
             return ['configuration' => ['SOCKET' => ['HOST' => '127.0.0.1', 'PORT' => {port}]]];"
        );
        configure(folder, &code)
    }

    fn make(&self, root: &Path, size: Size, folder: &Path) -> Result<()> {
        let mut make = Command::new(&self.php);
        make.arg(workspace::root().join(MAKE_SITE))
            .arg(folder)
            .env(ROOT, root);
        let status = process::run(&mut make, STEP_LIMIT)?;
        ensure!(status.success(), "{MAKE_SITE}: {status}");
        fs::create_dir_all(folder.join("tmp/sessions"))?;
        let classes = folder.join("classes");
        fs::create_dir(&classes)?;
        if size == Size::Large {
            for number in 0..CLASSES {
                fs::write(classes.join(format!("Table{number}.php")), class(number))?;
            }
        }
        Ok(())
    }
}

/// Writes what the application asks for before anything of CarbonPHP's begins: a good time to load
/// classes, too.
fn configure(folder: &Path, code: &str) -> Result<()> {
    let code = format!(
        "<?php\n\nforeach (glob(__DIR__ . '/classes/*.php') as $file) {{\n    require $file;\n}}\n{code}\n"
    );
    Ok(fs::write(folder.join("configuration.php"), code)?)
}

/// Gives the files of a site the age of one that is in use: opcache leaves alone what was written within
/// the last seconds, so that neither processes nor messages would share it.
pub(super) fn age(folder: &Path) -> Result<()> {
    let time = SystemTime::now() - AGE;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let kind = entry.file_type()?;
        // Links lead to what is in use.
        if kind.is_dir() {
            age(&entry.path())?;
        } else if kind.is_file() {
            File::open(entry.path())?.set_modified(time)?;
        }
    }
    Ok(())
}

/// Copies what of a CarbonPHP is loaded, by itself or in a project of Composer's, and repairs it.
fn repaired_copy(root: &Path) -> Result<TempDir> {
    let copy = tempfile::Builder::new().prefix("ws-bench-").tempdir()?;
    for name in ["carbonphp", "vendor"] {
        let source = root.join(name);
        if !source.is_dir() {
            continue;
        }
        let mut command = Command::new("cp");
        command.args(["-R", "-L"]).arg(&source).arg(copy.path());
        let status = process::run(&mut command, STEP_LIMIT)?;
        ensure!(
            status.success(),
            "cannot copy {}: {status}",
            source.display()
        );
    }
    let mut files = Vec::new();
    find_named(FORKS_IN, copy.path(), &mut files)?;
    let [file] = &files[..] else {
        let count = files.len();
        bail!(
            "{} has {count} files {FORKS_IN}, wanted is 1",
            root.display()
        );
    };
    let code = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    fs::write(file, repaired(&code).with_context(|| FORKS_IN)?)?;
    Ok(copy)
}

fn find_named(name: &str, folder: &Path, found: &mut Vec<PathBuf>) -> Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            find_named(name, &entry.path(), found)?;
        } else if entry.file_name() == name {
            found.push(entry.path());
        }
    }
    Ok(())
}

/// The code with the parent told from its child.
fn repaired(code: &str) -> Result<String> {
    let count = code.matches(FORK).count();
    ensure!(
        count == 1,
        "{FORK:?} is there {count} times instead of once: this CarbonPHP forks in another way"
    );
    Ok(code.replace(FORK, FORK_REPAIRED))
}

/// A class as generators of code for tables write them.
fn class(number: u32) -> String {
    let table = format!("table_{number}");
    let mut code = format!(
        "<?php\n\nnamespace Site\\Tables;\n\nclass Table{number}\n{{\n    \
         public const TABLE = '{table}';\n    public const COLUMNS = [\n"
    );
    for column in 0..COLUMNS {
        let length = column + 10;
        let _ = writeln!(
            code,
            "        'column_{column}' => ['type' => 'varchar', 'length' => {length}, \
             'null' => true, 'table' => '{table}'],"
        );
    }
    code += "    ];\n    public static array $cache = [];\n\n    \
             public static function check(string $column, ?string $value): ?string\n    {\n        \
             return self::$cache[self::TABLE][$column] = $value;\n    }\n";
    for column in 0..COLUMNS {
        let length = column + 10;
        let _ = write!(
            code,
            "\n    /** Column {column} of {table}, cut. */\n    \
             public function column{column}(array $row, ?string $default = null): ?string\n    {{\n        \
             $value = $row['column_{column}'] ?? $default;\n        \
             if (is_string($value) && strlen($value) > {length}) {{\n            \
             $value = substr($value, 0, {length}) . '... of {table}';\n        }}\n        \
             return self::check('column_{column}', $value);\n    }}\n"
        );
    }
    code + "}\n"
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const CODE: &str = "<?php\nswitch (pcntl_fork()) {\n    case 1:\n        return;\n}\n";

    #[test]
    fn every_positive_result_of_the_fork_is_the_parents() {
        let code = repaired(CODE).unwrap();
        assert_eq!(code, CODE.replace("pcntl_fork()", "min(1, pcntl_fork())"));
    }

    #[test]
    fn sources_that_fork_in_another_way_are_refused_with_a_reason() {
        for (code, count) in [("<?php pcntl_fork();", 0), (&CODE.repeat(2), 2)] {
            let error = repaired(code).unwrap_err().to_string();
            assert!(error.contains(&format!("there {count} times")), "{error}");
        }
    }

    #[test]
    fn copy_is_repaired_and_the_original_is_not_touched() {
        let root = tempfile::tempdir().unwrap();
        let folder = root
            .path()
            .join("vendor/carbonorm/carbonphp/carbonphp/websocket");
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(FORKS_IN), CODE).unwrap();
        fs::write(root.path().join("large"), "not needed").unwrap();
        let copy = repaired_copy(root.path()).unwrap();
        let mut files = Vec::new();
        find_named(FORKS_IN, copy.path(), &mut files).unwrap();
        assert_eq!(files.len(), 1);
        let code = fs::read_to_string(&files[0]).unwrap();
        assert!(code.contains(FORK_REPAIRED), "{code}");
        assert_eq!(fs::read_to_string(folder.join(FORKS_IN)).unwrap(), CODE);
        assert!(!copy.path().join("large").exists());
    }

    #[test]
    fn folder_without_the_original_is_refused_with_a_reason() {
        let root = tempfile::tempdir().unwrap();
        let error = repaired_copy(root.path()).unwrap_err().to_string();
        assert!(error.contains("has 0 files WsFileStreams.php"), "{error}");
    }

    #[test]
    fn no_file_of_an_aged_site_is_new() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("classes")).unwrap();
        let files = ["index.php", "classes/Table0.php"].map(|name| folder.path().join(name));
        for file in &files {
            fs::write(file, "<?php").unwrap();
        }
        age(folder.path()).unwrap();
        for file in &files {
            let time = fs::metadata(file).unwrap().modified().unwrap();
            assert!(time.elapsed().unwrap() >= AGE);
        }
    }

    #[test]
    fn classes_have_methods_and_columns_and_names_of_their_own() {
        let codes: HashSet<String> = (0..CLASSES).map(class).collect();
        assert_eq!(codes.len(), CLASSES as usize);
        for code in &codes {
            assert_eq!(code.matches("public function column").count(), 12);
            assert_eq!(code.matches("'type' => 'varchar'").count(), 12);
            assert_eq!(
                code.matches(['{', '[', '(']).count(),
                code.matches(['}', ']', ')']).count()
            );
            assert!(code.lines().count() > 100, "{code}");
        }
    }

    #[test]
    fn classes_are_code_that_php_takes() {
        let Some(php) = workspace::find("php") else {
            return;
        };
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("Table7.php");
        fs::write(&file, class(7)).unwrap();
        let code = format!(
            "require '{}'; $row = ['column_0' => str_repeat('x', 11)];
             echo (new Site\\Tables\\Table7())->column0($row);",
            file.display()
        );
        let output = Command::new(php).args(["-r", &code]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, "xxxxxxxxxx... of table_7");
    }
}
