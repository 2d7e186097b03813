//! What the browser provides: a clock, a console, and turns of its event loop.

use js_sys::{Function, Promise};
use wasm_bindgen::prelude::*;
use wasm_bindgen_futures::JsFuture;

#[wasm_bindgen]
extern "C" {
    #[wasm_bindgen(js_namespace = performance, js_name = now)]
    fn milliseconds() -> f64;
    #[wasm_bindgen(js_namespace = console, js_name = error)]
    fn console_error(text: &str);
    #[wasm_bindgen(js_name = setTimeout)]
    fn set_timeout(then: &Function, milliseconds: u32);
}

/// Seconds since some moment.
pub fn now() -> f64 {
    1e-3 * milliseconds()
}

/// Lets the browser draw and hear the visitor before the program goes on.
pub async fn breathe() {
    let turn = Promise::new(&mut |then, _| set_timeout(&then, 0));
    // Such a promise is never rejected.
    let _ = JsFuture::from(turn).await;
}

/// Calls one of the page's functions with a text. What it throws is the page's own affair.
pub fn tell(function: &Function, text: &str) {
    let _ = function.call1(&JsValue::NULL, &text.into());
}

struct Console;

impl log::Log for Console {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &log::Record<'_>) {
        console_error(&record.args().to_string());
    }

    fn flush(&self) {}
}

/// Sends the library's errors, and where a panic came from, to the console.
pub fn report_to_console() {
    std::panic::set_hook(Box::new(|panic| console_error(&panic.to_string())));
    if log::set_logger(&Console).is_ok() {
        log::set_max_level(log::LevelFilter::Error);
    }
}
