//! The JSON Schema of the language: what editors complete from, and what [`check`](super::check) checks against.
//!
//! Draft 7, because every YAML language server reads it. The fixed part comes from [`grammar`], the
//! blocks of DNS providers and targets from their factories.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use schemars::transform::ReplacePrefixItems;
use schemars::transform::Transform;
use serde_json::Map;
use serde_json::Value;
use serde_json::json;

use super::grammar;
use crate::registry::Registry;

/// Composes the schema of the configuration from the language and the kinds of a registry.
pub fn schema(registry: &Registry) -> Value {
    let mut schema = fragment::<grammar::Config>();
    if let Some(root) = schema.as_object_mut() {
        root.shift_insert(0, "$schema".to_owned(), json!("http://json-schema.org/draft-07/schema#"));
        root.insert("title".to_owned(), json!("certplan.yaml"));
    }
    let mut definitions = Map::new();
    let dns: Vec<&str> = registry.dns.iter().map(|factory| factory.kind).collect();
    for factory in registry.dns {
        definitions.insert(format!("dns_{}", factory.kind), normalised((factory.schema)().to_value()));
    }
    if let Some(block) = schema.pointer_mut("/properties/dns/additionalProperties") {
        add_kinds(block, "dns", &dns, &[]);
    }
    let targets: Vec<&str> = registry.targets.iter().map(|factory| factory.kind).collect();
    for factory in registry.targets {
        let mut block = normalised((factory.schema)().to_value());
        let verify = described(
            &fragment::<grammar::OneOrMany>(),
            "Where the target serves its certificates: a deployment counts only when it is seen there.",
        );
        properties(&mut block).insert("verify".to_owned(), verify);
        definitions.insert(format!("target_{}", factory.kind), block);
    }
    if let Some(block) = schema.pointer_mut("/properties/targets/additionalProperties") {
        add_kinds(block, "target", &targets, &[]);
    }
    definitions.insert("deploy".to_owned(), deploy(registry, None));
    if let Some(items) =
        schema.pointer_mut("/properties/certificates/additionalProperties/properties/deploy/items")
    {
        *items = json!({ "$ref": "#/definitions/deploy" });
    }
    if let Some(root) = schema.as_object_mut() {
        root.insert("definitions".to_owned(), Value::Object(definitions));
    }
    schema
}

/// The schema of an entry of `deploy`: for targets of one kind, or with the parameters of all kinds.
pub(super) fn deploy(registry: &Registry, kind: Option<&str>) -> Value {
    let mut schema = fragment::<grammar::Deploy>();
    let kinds: Vec<&str> = registry.targets.iter().map(|factory| factory.kind).collect();
    add_kinds(&mut schema, "target", &kinds, &["target"]);
    let mut required = Vec::new();
    let own = properties(&mut schema);
    for factory in registry.targets.iter().filter(|factory| kind.is_none_or(|kind| kind == factory.kind)) {
        let parameters = normalised((factory.parameters)().to_value());
        for (name, parameter) in parameters.get("properties").and_then(Value::as_object).into_iter().flatten()
        {
            match own.get_mut(name) {
                None => drop(own.insert(name.clone(), parameter.clone())),
                Some(existing) if existing == parameter || kinds.contains(&name.as_str()) => {}
                Some(existing) => {
                    let either = json!({ "anyOf": [existing.take(), parameter] });
                    *existing = either;
                }
            }
        }
        if kind.is_some() {
            required
                .extend(parameters.get("required").and_then(Value::as_array).cloned().unwrap_or_default());
        }
    }
    if let (Some(schema), false) = (schema.as_object_mut(), required.is_empty()) {
        schema.insert("required".to_owned(), Value::Array(required));
    }
    schema
}

/// Adds one key per kind, of which, or of the `others`, exactly one is to be there.
fn add_kinds(block: &mut Value, prefix: &str, kinds: &[&str], others: &[&str]) {
    let own = properties(block);
    for (index, kind) in kinds.iter().enumerate() {
        own.shift_insert(
            index,
            (*kind).to_owned(),
            json!({ "$ref": format!("#/definitions/{prefix}_{kind}") }),
        );
    }
    let one_of: Vec<Value> = others.iter().chain(kinds).map(|key| json!({ "required": [key] })).collect();
    if let (Some(block), false) = (block.as_object_mut(), one_of.is_empty()) {
        block.insert("oneOf".to_owned(), Value::Array(one_of));
    }
}

fn properties(block: &mut Value) -> &mut Map<String, Value> {
    if !block.is_object() {
        *block = json!({ "type": "object" });
    }
    if !block["properties"].is_object() {
        block["properties"] = json!({});
    }
    match &mut block["properties"] {
        Value::Object(properties) => properties,
        // Made an object two lines above.
        _ => unreachable!("the properties are a map"),
    }
}

fn described(schema: &Value, description: &str) -> Value {
    let mut schema = schema.clone();
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("description".to_owned(), json!(description));
    }
    schema
}

fn fragment<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    normalised(settings.into_generator().into_root_schema_for::<T>().to_value())
}

/// Brings a schema that was generated from a type into the one form that the language uses: keys are left out
/// rather than null, maps are closed, and no titles of types.
pub(super) fn normalised(schema: Value) -> Value {
    let mut schema = schema;
    if let Ok(schema) = <&mut schemars::Schema>::try_from(&mut schema) {
        ReplacePrefixItems::default().transform(schema);
    }
    simplify(&mut schema);
    schema
}

fn simplify(schema: &mut Value) {
    let Value::Object(map) = schema else { return };
    map.shift_remove("title");
    map.shift_remove("format");
    map.shift_remove("$schema");
    if map.get("default").is_some_and(Value::is_null) {
        map.shift_remove("default");
    }
    let is_null = |value: &Value| value.get("type").is_some_and(|kind| kind == "null") || value.is_null();
    for key in ["anyOf", "oneOf", "enum", "type"] {
        if let Some(Value::Array(list)) = map.get_mut(key) {
            list.retain(|value| !is_null(value) && value != "null");
        }
    }
    if let Some(Value::Array(types)) = map.get("type")
        && let [one] = types.as_slice()
    {
        let one = one.clone();
        map.insert("type".to_owned(), one);
    }
    for key in ["properties", "definitions", "$defs", "patternProperties"] {
        if let Some(Value::Object(children)) = map.get_mut(key) {
            children.values_mut().for_each(simplify);
        }
    }
    for key in ["additionalProperties", "items", "not", "additionalItems"] {
        if let Some(child) = map.get_mut(key) {
            simplify(child);
        }
    }
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(Value::Array(children)) = map.get_mut(key) {
            children.iter_mut().for_each(simplify);
        }
    }
    // What is left of an optional value is the value.
    for key in ["anyOf", "oneOf", "allOf"] {
        if let Some(Value::Array(branches)) = map.get(key)
            && let [Value::Object(only)] = branches.as_slice()
        {
            let only = only.clone();
            map.shift_remove(key);
            for (name, value) in only {
                map.entry(name).or_insert(value);
            }
        }
    }
    // A variant is a map of one key: what is said of the variant is what editors show for the key.
    let description = map.get("description").cloned();
    if let (Some(description), Some(Value::Object(children))) = (description, map.get_mut("properties"))
        && children.len() == 1
        && let Some(Value::Object(only)) = children.values_mut().next()
    {
        only.entry("description").or_insert(description);
    }
    if map.contains_key("properties") && !map.contains_key("additionalProperties") {
        map.insert("additionalProperties".to_owned(), json!(false));
    }
}
