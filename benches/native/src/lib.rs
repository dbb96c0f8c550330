//! A Node addon with nothing in it: how long `require()` of any addon takes at least.

use std::ffi::c_void;

/// What Node calls when it loads an addon (`node_api.h`): returns the exports that it was given.
#[unsafe(no_mangle)]
pub extern "C" fn napi_register_module_v1(_env: *mut c_void, exports: *mut c_void) -> *mut c_void {
    exports
}
