//! What we use of Weaviate's gRPC interface (`weaviate.v1`), written down from its published
//! field numbers. Fields that we never set or read are left out, which protobuf allows.
//!
//! The interface is part of Weaviate, Copyright (c) 2020-2025 Weaviate B.V., under the
//! BSD-3-Clause licence.

use std::collections::HashMap;

/// How many replicas must agree; the one that we ask for is a majority.
pub(super) const QUORUM: i32 = 2;

/// Operators of filters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum Operator {
    Unspecified = 0,
    Equal = 1,
    GreaterThan = 3,
    GreaterThanEqual = 4,
    LessThan = 5,
    LessThanEqual = 6,
    And = 7,
    Or = 8,
    ContainsAny = 12,
    Not = 15,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TextArray {
    #[prost(string, repeated, tag = "1")]
    pub(super) values: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct IntArray {
    #[prost(int64, repeated, tag = "1")]
    pub(super) values: Vec<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NumberArray {
    #[prost(double, repeated, tag = "1")]
    pub(super) values: Vec<f64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BooleanArray {
    #[prost(bool, repeated, tag = "1")]
    pub(super) values: Vec<bool>,
}

/// What a property is compared with.
#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum TestValue {
    #[prost(string, tag = "4")]
    Text(String),
    #[prost(int64, tag = "5")]
    Int(i64),
    #[prost(bool, tag = "6")]
    Boolean(bool),
    #[prost(double, tag = "7")]
    Number(f64),
    #[prost(message, tag = "9")]
    TextArray(TextArray),
    #[prost(message, tag = "10")]
    IntArray(IntArray),
    #[prost(message, tag = "11")]
    BooleanArray(BooleanArray),
    #[prost(message, tag = "12")]
    NumberArray(NumberArray),
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct FilterTarget {
    #[prost(string, optional, tag = "1")]
    pub(super) property: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Filters {
    #[prost(enumeration = "Operator", tag = "1")]
    pub(super) operator: i32,
    #[prost(message, repeated, tag = "3")]
    pub(super) filters: Vec<Filters>,
    #[prost(oneof = "TestValue", tags = "4, 5, 6, 7, 9, 10, 11, 12")]
    pub(super) test_value: Option<TestValue>,
    #[prost(message, optional, tag = "20")]
    pub(super) target: Option<FilterTarget>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PropertiesRequest {
    #[prost(string, repeated, tag = "1")]
    pub(super) non_ref_properties: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MetadataRequest {
    #[prost(bool, tag = "2")]
    pub(super) vector: bool,
    #[prost(bool, tag = "5")]
    pub(super) distance: bool,
    #[prost(bool, tag = "7")]
    pub(super) score: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Bm25 {
    #[prost(string, tag = "1")]
    pub(super) query: String,
    #[prost(string, repeated, tag = "2")]
    pub(super) properties: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct NearVector {
    /// Numbers of 32 bits, the lowest byte first.
    #[prost(bytes = "vec", tag = "4")]
    pub(super) vector_bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SearchRequest {
    #[prost(string, tag = "1")]
    pub(super) collection: String,
    #[prost(string, tag = "10")]
    pub(super) tenant: String,
    #[prost(int32, optional, tag = "11")]
    pub(super) consistency_level: Option<i32>,
    #[prost(message, optional, tag = "20")]
    pub(super) properties: Option<PropertiesRequest>,
    #[prost(message, optional, tag = "21")]
    pub(super) metadata: Option<MetadataRequest>,
    #[prost(uint32, tag = "30")]
    pub(super) limit: u32,
    #[prost(message, optional, tag = "40")]
    pub(super) filters: Option<Filters>,
    #[prost(message, optional, tag = "42")]
    pub(super) bm25_search: Option<Bm25>,
    #[prost(message, optional, tag = "43")]
    pub(super) near_vector: Option<NearVector>,
    /// Answers are in the present form.
    #[prost(bool, tag = "102")]
    pub(super) uses_127_api: bool,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Value {
    #[prost(string, optional, tag = "13")]
    pub(super) text_value: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Properties {
    #[prost(map = "string, message", tag = "1")]
    pub(super) fields: HashMap<String, Value>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PropertiesResult {
    #[prost(message, optional, tag = "11")]
    pub(super) non_ref_props: Option<Properties>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct MetadataResult {
    #[prost(float, tag = "7")]
    pub(super) distance: f32,
    #[prost(float, tag = "11")]
    pub(super) score: f32,
    #[prost(bytes = "vec", tag = "19")]
    pub(super) vector_bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SearchResult {
    #[prost(message, optional, tag = "1")]
    pub(super) properties: Option<PropertiesResult>,
    #[prost(message, optional, tag = "2")]
    pub(super) metadata: Option<MetadataResult>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct SearchReply {
    #[prost(message, repeated, tag = "2")]
    pub(super) results: Vec<SearchResult>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TextArrayProperties {
    #[prost(string, repeated, tag = "1")]
    pub(super) values: Vec<String>,
    #[prost(string, tag = "2")]
    pub(super) prop_name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ObjectProperties {
    #[prost(message, optional, tag = "1")]
    pub(super) non_ref_properties: Option<prost_types::Struct>,
    #[prost(message, repeated, tag = "6")]
    pub(super) text_array_properties: Vec<TextArrayProperties>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BatchObject {
    #[prost(string, tag = "1")]
    pub(super) uuid: String,
    #[prost(message, optional, tag = "3")]
    pub(super) properties: Option<ObjectProperties>,
    #[prost(string, tag = "4")]
    pub(super) collection: String,
    #[prost(string, tag = "5")]
    pub(super) tenant: String,
    #[prost(bytes = "vec", tag = "6")]
    pub(super) vector_bytes: Vec<u8>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BatchObjectsRequest {
    #[prost(message, repeated, tag = "1")]
    pub(super) objects: Vec<BatchObject>,
    #[prost(int32, optional, tag = "2")]
    pub(super) consistency_level: Option<i32>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BatchError {
    #[prost(string, tag = "2")]
    pub(super) error: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BatchObjectsReply {
    #[prost(message, repeated, tag = "2")]
    pub(super) errors: Vec<BatchError>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BatchDeleteRequest {
    #[prost(string, tag = "1")]
    pub(super) collection: String,
    #[prost(message, optional, tag = "2")]
    pub(super) filters: Option<Filters>,
    #[prost(int32, optional, tag = "5")]
    pub(super) consistency_level: Option<i32>,
    #[prost(string, optional, tag = "6")]
    pub(super) tenant: Option<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct BatchDeleteReply {
    #[prost(int64, tag = "2")]
    pub(super) failed: i64,
    #[prost(int64, tag = "3")]
    pub(super) matches: i64,
    #[prost(int64, tag = "4")]
    pub(super) successful: i64,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AggregateRequest {
    #[prost(string, tag = "1")]
    pub(super) collection: String,
    #[prost(string, tag = "10")]
    pub(super) tenant: String,
    #[prost(bool, tag = "20")]
    pub(super) objects_count: bool,
    #[prost(message, optional, tag = "40")]
    pub(super) filters: Option<Filters>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AggregateSingle {
    #[prost(int64, optional, tag = "1")]
    pub(super) objects_count: Option<i64>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AggregateReply {
    #[prost(message, optional, tag = "2")]
    pub(super) single_result: Option<AggregateSingle>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TenantNames {
    #[prost(string, repeated, tag = "1")]
    pub(super) values: Vec<String>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TenantsGetRequest {
    #[prost(string, tag = "1")]
    pub(super) collection: String,
    /// Only these; all where absent.
    #[prost(message, optional, tag = "2")]
    pub(super) names: Option<TenantNames>,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Tenant {
    #[prost(string, tag = "1")]
    pub(super) name: String,
}

#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TenantsGetReply {
    #[prost(message, repeated, tag = "2")]
    pub(super) tenants: Vec<Tenant>,
}

/// A method, by its request.
pub(super) trait Method: prost::Message + Clone + 'static {
    type Reply: prost::Message + Default + 'static;
    const PATH: &'static str;
}

macro_rules! methods {
    ($($request:ty => $reply:ty, $name:literal;)*) => {$(
        impl Method for $request {
            type Reply = $reply;
            const PATH: &'static str = concat!("/weaviate.v1.Weaviate/", $name);
        }
    )*};
}

methods! {
    SearchRequest => SearchReply, "Search";
    BatchObjectsRequest => BatchObjectsReply, "BatchObjects";
    BatchDeleteRequest => BatchDeleteReply, "BatchDelete";
    AggregateRequest => AggregateReply, "Aggregate";
    TenantsGetRequest => TenantsGetReply, "TenantsGet";
}
