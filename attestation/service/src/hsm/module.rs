//! Modules that were loaded, each once, and their beginning anew.
//!
//! Some modules do not find a token again that was away until they are told that their process is another one. That ends every
//! session, and numbers of sessions and keys may then mean others: so each use is of one generation, and none goes on while
//! the next one begins.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Pkcs11};
use cryptoki::error::{Error, RvError};

use super::token::{HsmError, said};

/// None is ever taken out again: others may have pointers into it.
static LOADED: Mutex<Option<HashMap<PathBuf, Arc<Module>>>> = Mutex::new(None);

/// A module.
pub(super) struct Module {
    pub(super) context: Pkcs11,
    /// How often it began.
    generation: RwLock<u64>,
}

/// As long as this is there no other generation begins.
pub(super) type Generation<'a> = RwLockReadGuard<'a, u64>;

impl Module {
    /// Loads it, or finds it.
    pub(super) fn load(path: &Path) -> Result<Arc<Self>, HsmError> {
        let wrong = |reason: String| HsmError::Module { module: path.to_owned(), reason };
        // By another name it would be the same library.
        let real = path.canonicalize().map_err(|error| wrong(error.to_string()))?;
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        let loaded = loaded.get_or_insert_default();
        if let Some(known) = loaded.get(&real) {
            return Ok(known.clone());
        }
        let context = Pkcs11::new(&real).map_err(|error| wrong(said(&error)))?;
        begin(&context).map_err(|error| wrong(said(&error)))?;
        let module = Arc::new(Self { context, generation: RwLock::new(0) });
        loaded.insert(real, module.clone());
        Ok(module)
    }

    pub(super) fn generation(&self) -> Generation<'_> {
        self.generation.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends everything that goes on in the module and begins anew, unless somebody is in it now.
    pub(super) fn begin_anew(&self) {
        if let Ok(mut generation) = self.generation.try_write() {
            *generation += 1;
            // What either says shows when the token is looked for.
            let _ = self.context.clone().finalize();
            let _ = begin(&self.context);
        }
    }
}

fn begin(context: &Pkcs11) -> Result<(), Error> {
    match context.initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK)) {
        Ok(()) | Err(Error::Pkcs11(RvError::CryptokiAlreadyInitialized, _)) => Ok(()),
        Err(error) => Err(error),
    }
}
