//! A closure as a function of queries: its arguments and its result are records.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use datafusion::arrow::array::{Array, ArrayRef, BooleanArray, UInt32Array};
use datafusion::arrow::buffer::{Buffer, NullBuffer};
use datafusion::arrow::compute::{cast, filter, take};
use datafusion::arrow::datatypes::{DataType, Field, FieldRef, SchemaRef};
use datafusion::error::Result as EngineResult;
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};

use super::record::{Builder, ColumnReader, Columns, Record};
use super::rows::{Closure, panic_message, texts_of};
use crate::error::{Error, Operator, Result};

/// From columns of arguments, and their number of rows, to the column of results.
type ColumnFn = dyn Fn(&[ArrayRef], usize) -> Result<ArrayRef> + Send + Sync;

/// The function `f` by the name of `operator`.
pub(crate) fn typed<A: Record, R: Record>(
    operator: Operator,
    f: impl for<'a> Fn(A::Ref<'a>) -> R + Closure,
) -> Result<ScalarUDF> {
    let (arguments, results) = (A::schema(), R::schema());
    let [result] = &results.fields()[..] else {
        return Err(Error::Graph {
            operator,
            message: format!(
                "its result has {} columns; a function of a query gives one",
                results.fields().len()
            ),
        });
    };
    let types = arguments.fields().iter();
    let types: Vec<_> = types.map(|field| field.data_type().clone()).collect();
    let signature = match types.is_empty() {
        true => Signature::nullary(Volatility::Immutable),
        false => Signature::exact(types, Volatility::Immutable),
    };
    Ok(ScalarUDF::new_from_impl(TypedFunction {
        operator,
        signature,
        result: Arc::clone(result),
        arguments,
        call: Arc::new(move |columns, rows| each_row::<A, R>(columns, rows, &f)),
    }))
}

fn each_row<A: Record, R: Record>(
    arguments: &[ArrayRef],
    rows: usize,
    f: &impl for<'a> Fn(A::Ref<'a>) -> R,
) -> Result<ArrayRef> {
    let columns = A::Cols::try_new(&mut ColumnReader::new(arguments))?;
    let mut builder = R::Builder::default();
    let texts: Vec<Buffer> = texts_of(arguments);
    builder.attach(&texts);
    for row in 0..rows {
        f(columns.get(row)).append(&mut builder);
    }
    let mut made = Vec::with_capacity(1);
    builder.finish(&mut made)?;
    made.pop()
        .ok_or_else(|| Error::internal("a function without a result"))
}

struct TypedFunction {
    operator: Operator,
    signature: Signature,
    arguments: SchemaRef,
    result: FieldRef,
    call: Arc<ColumnFn>,
}

impl fmt::Debug for TypedFunction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TypedFunction({})", self.operator)
    }
}

impl PartialEq for TypedFunction {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.call, &other.call)
    }
}

impl Eq for TypedFunction {}

impl Hash for TypedFunction {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.operator.name.hash(state);
    }
}

impl TypedFunction {
    /// Where an argument is null that is not optional.
    fn nulls(&self, arguments: &[ArrayRef]) -> Option<NullBuffer> {
        let fields = self.arguments.fields().iter().zip(arguments);
        let strict = fields.filter(|(field, _)| !field.is_nullable());
        let nulls = strict.filter_map(|(_, column)| column.logical_nulls());
        let nulls = nulls.reduce(|a, b| NullBuffer::union(Some(&a), Some(&b)).unwrap_or(a));
        nulls.filter(|nulls| nulls.null_count() > 0)
    }

    fn guarded(&self, arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let called = catch_unwind(AssertUnwindSafe(|| (self.call)(arguments, rows)));
        called.unwrap_or_else(|panic| {
            Err(Error::Panic {
                operator: self.operator.clone(),
                message: panic_message(&*panic),
            })
        })
    }

    fn results(&self, arguments: &[ArrayRef], rows: usize) -> Result<ArrayRef> {
        let Some(nulls) = self.nulls(arguments) else {
            return self.guarded(arguments, rows);
        };
        let known = BooleanArray::new(nulls.inner().clone(), None);
        let columns = arguments.iter().map(|column| filter(column, &known));
        let made = self.guarded(&columns.collect::<Result<Vec<_>, _>>()?, known.true_count())?;
        let mut next = 0;
        let places = nulls.iter().map(|known| {
            next += u32::from(known);
            known.then(|| next - 1)
        });
        Ok(take(&made, &places.collect::<UInt32Array>(), None)?)
    }
}

impl ScalarUDFImpl for TypedFunction {
    fn name(&self) -> &str {
        &self.operator.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _: &[DataType]) -> EngineResult<DataType> {
        Ok(self.result.data_type().clone())
    }

    fn return_field_from_args(&self, args: ReturnFieldArgs<'_>) -> EngineResult<FieldRef> {
        let arguments = self.arguments.fields().iter().zip(args.arg_fields);
        let mut strict = arguments.filter(|(ours, _)| !ours.is_nullable());
        let nulls = self.result.is_nullable() || strict.any(|(_, given)| given.is_nullable());
        let kind = self.result.data_type().clone();
        Ok(Arc::new(Field::new(&self.operator.name, kind, nulls)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> EngineResult<ColumnarValue> {
        let given = ColumnarValue::values_to_arrays(&args.args)?;
        let rows = given
            .first()
            .map_or(args.number_rows, |column| column.len());
        let given = given.iter().zip(self.arguments.fields());
        let columns = given.map(
            |(column, field)| match column.data_type() == field.data_type() {
                true => Ok(Arc::clone(column)),
                false => cast(column, field.data_type()),
            },
        );
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        Ok(ColumnarValue::Array(self.results(&columns, rows)?))
    }
}
