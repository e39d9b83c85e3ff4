//! [`fitted`]: an expression that gives a list of a query the type that the record has.
//!
//! A cast would not do: DataFusion refuses casts of structs whose fields may be null, whatever their values, and it
//! declares the results of nearly all functions nullable.

use std::sync::Arc;

use datafusion::arrow::datatypes::{DataType, FieldRef};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::{
    ColumnarValue, Expr, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::record::refitted;

/// `column` with the type of `wanted`.
pub(super) fn fitted(column: Expr, wanted: &FieldRef, nullable: bool) -> Expr {
    let wanted = Arc::new(wanted.as_ref().clone().with_nullable(nullable));
    ScalarUDF::new_from_impl(FitList {
        wanted,
        signature: Signature::any(1, Volatility::Immutable),
    })
    .call(vec![column])
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct FitList {
    wanted: FieldRef,
    signature: Signature,
}

impl ScalarUDFImpl for FitList {
    fn name(&self) -> &str {
        "fit_list"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> EngineResult<DataType> {
        Ok(self.wanted.data_type().clone())
    }

    fn return_field_from_args(&self, _: ReturnFieldArgs<'_>) -> EngineResult<FieldRef> {
        Ok(Arc::clone(&self.wanted))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let columns = ColumnarValue::values_to_arrays(&args.args)?;
        Ok(ColumnarValue::Array(refitted(&columns[0], &self.wanted)?))
    }
}
