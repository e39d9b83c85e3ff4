//! `#[derive(Record)]` for enums without fields: a text column with the names of the variants.

use proc_macro2::TokenStream as Tokens;
use quote::quote;
use syn::{DataEnum, DeriveInput, Error, Fields};

use crate::given_name;

pub(crate) fn expand(input: &DeriveInput, data: &DataEnum) -> Result<Tokens, Error> {
    let name = &input.ident;
    if !input.generics.params.is_empty() {
        let error = "a record has no type or lifetime parameters: its columns must be known";
        return Err(Error::new_spanned(&input.generics, error));
    }
    let texts = texts(input, data)?;
    let variants: Vec<_> = data.variants.iter().map(|variant| &variant.ident).collect();
    let enum_name = name.to_string();
    Ok(quote! {
        impl ::dstreams::record::Variants for #name {
            const NAME: &'static str = #enum_name;
            const ALL: &'static [Self] = &[#(#name::#variants,)*];
            fn text(self) -> &'static str {
                match self { #(#name::#variants => #texts,)* }
            }
        }

        impl ::dstreams::Record for #name {
            type Ref<'a> = #name;
            type Cols = ::dstreams::record::VariantCols<#name>;
            type Builder = ::dstreams::record::TextBuilder;
            const SHAPE: ::dstreams::record::RecordShape = ::dstreams::record::RecordShape::Leaf;
            fn fields(name: &str, out: &mut ::std::vec::Vec<::dstreams::record::Field>) {
                ::dstreams::record::variant_field::<#name>(name, out)
            }
            fn own(row: #name) -> Self { row }
            fn append(self, to: &mut Self::Builder) {
                to.push_str(::dstreams::record::Variants::text(self))
            }
            fn append_ref(row: #name, to: &mut Self::Builder) {
                to.push_str(::dstreams::record::Variants::text(row))
            }
            fn append_null(to: &mut Self::Builder) { to.push_str("") }
        }

        impl ::dstreams::record::Columns<#name> for ::dstreams::record::VariantCols<#name> {
            fn try_new(
                reader: &mut ::dstreams::record::ColumnReader<'_>,
            ) -> ::dstreams::Result<Self> {
                ::dstreams::record::VariantCols::read(reader)
            }
            #[inline]
            fn get(&self, row: usize) -> #name { self.variant(row) }
        }

        impl ::dstreams::record::Push<#name> for #name {
            fn push_to(self, to: &mut ::dstreams::record::TextBuilder) {
                to.push_str(::dstreams::record::Variants::text(self))
            }
        }
        impl ::dstreams::record::Leaf for #name {}
        impl ::dstreams::Key for #name {}
    })
}

/// The text of each variant; no two have the same.
fn texts(input: &DeriveInput, data: &DataEnum) -> Result<Vec<String>, Error> {
    if data.variants.is_empty() {
        return Err(Error::new_spanned(
            &input.ident,
            "a record needs at least one variant",
        ));
    }
    let mut texts: Vec<String> = Vec::new();
    for variant in &data.variants {
        if !matches!(variant.fields, Fields::Unit) {
            let error = "a variant of a record has no fields; model such variants as a struct with `Option` fields";
            return Err(Error::new_spanned(variant, error));
        }
        let text = given_name(&variant.ident.to_string(), &variant.attrs)?;
        if text.contains('\n') || texts.contains(&text) {
            let error =
                format!("each variant has a text of its own, in one line, and `{text}` is not");
            return Err(Error::new_spanned(variant, error));
        }
        texts.push(text);
    }
    Ok(texts)
}
