//! Turns an action and its arguments into the steps of a plan.
//!
//! Expressions see the arguments and nothing else: no files, no clock, no environment. An unknown
//! name is an error, and so is a parameter that the step does not have.

use std::collections::BTreeMap;

use minijinja::value::ValueKind;
use minijinja::{Environment, UndefinedBehavior, Value};

use super::spec::{ActionSpec, ArgValue, StepSpec, duration, one_line};
use crate::domain::workflow::{PlannedStep, StepAction};

/// Arguments by name.
pub(super) type Args = BTreeMap<String, ArgValue>;

/// Error in an action's file: the key, if known, and the problem.
pub(super) type Flaw = (Option<String>, String);

/// Largest number of combinations of arguments that are tried when an action is loaded. An action
/// with more is refused.
const MAX_COMBINATIONS: usize = 4096;

const DEFAULT_DEADLINE: &str = "1m";

/// Plans the steps for these arguments, which must be complete.
pub(super) fn steps(action: &ActionSpec, args: &Args) -> Result<Vec<PlannedStep>, Flaw> {
    let engine = engine();
    let variables: BTreeMap<String, Value> =
        args.iter().map(|(name, value)| (variable(name), to_value(value))).collect();
    let context = Value::from(variables);
    let mut planned = Vec::new();
    for (at, step) in action.steps.iter().enumerate() {
        let flaw = |(key, problem): (String, String)| {
            let key = if key.is_empty() { key } else { format!(".{key}") };
            (Some(format!("steps[{}]{key}", at + 1)), problem)
        };
        planned.extend(plan_step(&engine, step, &context).map_err(flaw)?);
    }
    if planned.is_empty() {
        return Err((Some("steps".into()), "no step is left to do".into()));
    }
    Ok(planned)
}

/// Plans the action with every combination of sample values, so that an error shows when the file
/// is loaded.
pub(super) fn try_all(action: &ActionSpec) -> Result<(), Flaw> {
    let samples: Vec<(&String, Vec<ArgValue>)> =
        action.args.iter().map(|(name, spec)| (name, spec.samples())).collect();
    let combinations =
        samples.iter().fold(1usize, |product, (_, values)| product.saturating_mul(values.len()));
    if combinations > MAX_COMBINATIONS {
        let problem = format!(
            "the choices make {combinations} combinations, and no more than {MAX_COMBINATIONS} \
             can be checked"
        );
        return Err((Some("args".into()), problem));
    }
    for mut combination in 0..combinations {
        let mut args = Args::new();
        for (name, values) in &samples {
            args.insert((*name).clone(), values[combination % values.len()].clone());
            combination /= values.len();
        }
        steps(action, &args).map_err(|(key, problem)| {
            let given: Vec<String> =
                args.iter().map(|(name, value)| format!("{name}={}", value.text())).collect();
            match given.as_slice() {
                [] => (key, problem),
                given => (key, format!("{problem} (with {})", given.join(" "))),
            }
        })?;
    }
    Ok(())
}

/// Plans one step; `None` when its `when` is false. An error names the key within the step.
fn plan_step(
    engine: &Environment<'_>,
    step: &StepSpec,
    context: &Value,
) -> Result<Option<PlannedStep>, (String, String)> {
    if let Some(when) = &step.when {
        let truth =
            evaluate(engine, when, context).map_err(|error| ("when".to_owned(), error.0))?;
        if !truth.is_true() {
            return Ok(None);
        }
    }
    let text = |key: &str, source: &str| match render(engine, source, context) {
        Ok(toml::Value::String(text)) => Ok(text),
        Ok(other) => Ok(other.to_string()),
        Err(error) => Err((key.to_owned(), error.0)),
    };
    let title = text("title", &step.title)?;
    if title.trim().is_empty() {
        return Err(("title".into(), "it is empty".into()));
    }
    let deadline = text("deadline", step.deadline.as_deref().unwrap_or(DEFAULT_DEADLINE))?;
    let deadline_secs = duration(&deadline)
        .map(|deadline| deadline.as_secs())
        .filter(|seconds| *seconds > 0)
        .ok_or_else(|| ("deadline".to_owned(), format!("{deadline:?} is not a duration")))?;

    let mut table = toml::Table::new();
    for (key, value) in &step.action {
        let value = match value {
            toml::Value::String(source) => {
                render(engine, source, context).map_err(|error| (key.clone(), error.0))?
            }
            other => other.clone(),
        };
        table.insert(key.clone(), value);
    }
    let action: StepAction = toml::Value::Table(table)
        .try_into()
        .map_err(|cause: toml::de::Error| (String::new(), one_line(&cause.to_string())))?;
    Ok(Some(PlannedStep {
        title,
        action,
        deadline_secs,
        retry: step.retry,
        finishing: step.finishing,
    }))
}

fn engine() -> Environment<'static> {
    let mut engine = Environment::new();
    engine.set_undefined_behavior(UndefinedBehavior::Strict);
    engine.add_filter("seconds", |text: &str| {
        duration(text).map(|value| value.as_secs()).ok_or_else(|| {
            let problem = format!("{text:?} is not a duration");
            minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, problem)
        })
    });
    engine
}

/// Problem of a template in an action's file, in one line for whoever wrote the file.
struct TemplateError(String);

/// Renders a text. A text that is one expression keeps the expression's type.
fn render(
    engine: &Environment<'_>,
    source: &str,
    context: &Value,
) -> Result<toml::Value, TemplateError> {
    if let Some(expression) = lone_expression(source) {
        let value = evaluate(engine, expression, context)?;
        return match value.kind() {
            ValueKind::Bool => Ok(toml::Value::Boolean(value.is_true())),
            ValueKind::Number if value.is_integer() => value
                .as_i64()
                .map(toml::Value::Integer)
                .ok_or_else(|| TemplateError("the number is too great".into())),
            ValueKind::String => Ok(toml::Value::String(value.to_string())),
            other => {
                let problem = format!("{expression} gives {other}, not text or a whole number");
                Err(TemplateError(problem))
            }
        };
    }
    engine
        .render_str(source, context.clone())
        .map(toml::Value::String)
        .map_err(|cause| TemplateError(one_line(&cause.to_string())))
}

fn evaluate(
    engine: &Environment<'_>,
    expression: &str,
    context: &Value,
) -> Result<Value, TemplateError> {
    let value = engine
        .compile_expression(expression)
        .and_then(|expression| expression.eval(context.clone()))
        .map_err(|cause| TemplateError(one_line(&cause.to_string())))?;
    // Checked here because the engine accepts an undefined name that is only printed.
    match value.is_undefined() {
        true => Err(TemplateError(format!("{expression} is undefined"))),
        false => Ok(value),
    }
}

/// Expression of a text that consists of one `{{ expression }}` only.
fn lone_expression(source: &str) -> Option<&str> {
    let inner = source.trim().strip_prefix("{{")?.strip_suffix("}}")?;
    (!inner.contains("{{") && !inner.contains("}}")).then(|| inner.trim())
}

fn variable(arg: &str) -> String {
    arg.replace('-', "_")
}

fn to_value(value: &ArgValue) -> Value {
    match value {
        ArgValue::Flag(truth) => Value::from(*truth),
        ArgValue::Count(number) => Value::from(*number),
        text => Value::from(text.text()),
    }
}
