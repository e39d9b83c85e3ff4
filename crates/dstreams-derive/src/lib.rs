//! `#[derive(Record)]` for structs with named fields, and for enums without fields (`variants.rs`).
//!
//! The columns of the record are those of its fields, in order, under their names. The derive
//! makes a borrowed row view `<Name>Ref<'_>` with the same fields, column readers and builders.
//! `#[record(key)]` on the struct makes it a key too (all its fields must be keys);
//! `#[record(name = "user-agent")]` on a field gives its column another name.

mod variants;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use quote::{format_ident, quote};
use syn::{Data, DeriveInput, Error, Fields, FieldsNamed, parse_macro_input};

/// Makes a struct or an enum a record; see the crate's documentation.
#[proc_macro_derive(Record, attributes(record))]
pub fn derive_record(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    expand(&input)
        .unwrap_or_else(Error::into_compile_error)
        .into()
}

fn expand(input: &DeriveInput) -> Result<Tokens, Error> {
    let key = is_key(input)?;
    let name = &input.ident;
    if let Data::Enum(data) = &input.data {
        return variants::expand(input, data);
    }
    let fields = fields_of(input)?;
    let vis = &input.vis;
    let row = format_ident!("{name}Ref");
    let cols = format_ident!("{name}Cols");
    let builder = format_ident!("{name}Builder");
    let field: Vec<_> = fields
        .named
        .iter()
        .filter_map(|f| f.ident.as_ref())
        .collect();
    let ty: Vec<_> = fields.named.iter().map(|f| &f.ty).collect();
    let column = column_names(fields)?;
    let first = field[0];
    let keys = key.then(|| key_impl(name, &ty));
    let doc = format!("A row view of [`{name}`].");
    Ok(quote! {
        #[doc = #doc]
        #[derive(Clone, Copy)]
        #[allow(missing_docs, non_snake_case)]
        #vis struct #row<'a> { #(pub #field: <#ty as ::dstreams::Record>::Ref<'a>,)* }

        #[doc(hidden)]
        #[allow(non_snake_case)]
        #vis struct #cols { #(#field: <#ty as ::dstreams::Record>::Cols,)* }

        #[doc(hidden)]
        #[derive(Default)]
        #[allow(non_snake_case)]
        #vis struct #builder { #(#field: <#ty as ::dstreams::Record>::Builder,)* }

        impl ::dstreams::Record for #name {
            type Ref<'a> = #row<'a>;
            type Cols = #cols;
            type Builder = #builder;
            fn fields(name: &str, out: &mut ::std::vec::Vec<::dstreams::record::Field>) {
                #(<#ty as ::dstreams::Record>::fields(
                    &::dstreams::record::field_name(name, #column), out);)*
            }
            fn own(row: #row<'_>) -> Self {
                #name { #(#field: <#ty as ::dstreams::Record>::own(row.#field),)* }
            }
            fn append(self, to: &mut #builder) {
                #(<#ty as ::dstreams::Record>::append(self.#field, &mut to.#field);)*
            }
            fn append_ref(row: #row<'_>, to: &mut #builder) {
                #(<#ty as ::dstreams::Record>::append_ref(row.#field, &mut to.#field);)*
            }
            fn append_null(to: &mut #builder) {
                #(<#ty as ::dstreams::Record>::append_null(&mut to.#field);)*
            }
        }

        impl ::dstreams::record::Columns<#name> for #cols {
            fn try_new(
                reader: &mut ::dstreams::record::ColumnReader<'_>,
            ) -> ::dstreams::Result<Self> {
                ::std::result::Result::Ok(#cols {
                    #(#field: <<#ty as ::dstreams::Record>::Cols as
                        ::dstreams::record::Columns<#ty>>::try_new(reader)?,)*
                })
            }
            #[inline]
            fn get(&self, row: usize) -> #row<'_> {
                #row { #(#field: ::dstreams::record::Columns::<#ty>::get(&self.#field, row),)* }
            }
        }

        impl ::dstreams::record::Builder for #builder {
            fn len(&self) -> usize { ::dstreams::record::Builder::len(&self.#first) }
            fn attach(&mut self, buffers: &[::dstreams::record::Buffer]) {
                #(::dstreams::record::Builder::attach(&mut self.#field, buffers);)*
            }
            fn finish(
                &mut self,
                out: &mut ::std::vec::Vec<::dstreams::record::ArrayRef>,
            ) -> ::dstreams::Result<()> {
                #(::dstreams::record::Builder::finish(&mut self.#field, out)?;)*
                ::std::result::Result::Ok(())
            }
        }

        impl ::dstreams::record::Push<#name> for #name {
            fn push_to(self, to: &mut #builder) { ::dstreams::Record::append(self, to) }
        }
        impl ::dstreams::record::Push<#name> for #row<'_> {
            fn push_to(self, to: &mut #builder) {
                <#name as ::dstreams::Record>::append_ref(self, to)
            }
        }
        #keys
    })
}

/// Makes a record a key, if all its fields are.
fn key_impl(name: &syn::Ident, ty: &[&syn::Type]) -> Tokens {
    quote! {
        const _: () = {
            fn needs_key<K: ::dstreams::Key>() {}
            fn all_fields_are_keys() { #(needs_key::<#ty>();)* }
        };
        impl ::dstreams::Key for #name {}
    }
}

/// The fields of a struct that can be a record.
fn fields_of(input: &DeriveInput) -> Result<&FieldsNamed, Error> {
    let name = &input.ident;
    if !input.generics.params.is_empty() {
        return Err(Error::new_spanned(
            &input.generics,
            "a record has no type or lifetime parameters: its columns must be known",
        ));
    }
    let Data::Struct(data) = &input.data else {
        return Err(Error::new_spanned(
            name,
            "Record can be derived for structs, and for enums without fields",
        ));
    };
    let Fields::Named(fields) = &data.fields else {
        return Err(Error::new_spanned(
            name,
            "Record needs named fields: they name the columns; for unnamed ones use a tuple",
        ));
    };
    if fields.named.is_empty() {
        return Err(Error::new_spanned(
            name,
            "a record needs at least one field",
        ));
    }
    Ok(fields)
}

/// The column of each field; no two have one name.
fn column_names(fields: &FieldsNamed) -> Result<Vec<String>, Error> {
    let column = fields.named.iter().map(column_name);
    let column = column.collect::<Result<Vec<_>, _>>()?;
    let mut once = std::collections::BTreeSet::new();
    for (name, field) in column.iter().zip(&fields.named) {
        if !once.insert(name) {
            let error = format!("there are two columns `{name}`; each has a name of its own");
            return Err(Error::new_spanned(field, error));
        }
    }
    Ok(column)
}

/// Whether `#[record(key)]` is there.
fn is_key(input: &DeriveInput) -> Result<bool, Error> {
    let mut key = false;
    for attribute in input.attrs.iter().filter(|a| a.path().is_ident("record")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("key") {
                return Err(meta.error("unknown option; expected `key`"));
            }
            key = true;
            Ok(())
        })?;
    }
    Ok(key)
}

/// The name of a field's column: its own, or that of `#[record(name = "..")]`.
fn column_name(field: &syn::Field) -> Result<String, Error> {
    let own = field.ident.as_ref().map(ToString::to_string);
    given_name(&own.unwrap_or_default(), &field.attrs)
}

/// The name that `#[record(name = "..")]` gives, or `own`.
fn given_name(own: &str, attributes: &[syn::Attribute]) -> Result<String, Error> {
    let mut name = own.trim_start_matches("r#").to_owned();
    for attribute in attributes.iter().filter(|a| a.path().is_ident("record")) {
        attribute.parse_nested_meta(|meta| {
            if !meta.path.is_ident("name") {
                return Err(meta.error("unknown option; expected `name = \"..\"`"));
            }
            let given: syn::LitStr = meta.value()?.parse()?;
            name = given.value();
            match name.is_empty() {
                true => Err(Error::new_spanned(given, "a name must not be empty")),
                false => Ok(()),
            }
        })?;
    }
    Ok(name)
}
