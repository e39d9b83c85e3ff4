//! The most used hashtags of the last ten seconds, over all languages and of each language.
//!
//! By the time at which posts were written: a phone without a network sends them later.

use dstreams::agg::count;
use dstreams::testing::TestProgram;
use dstreams::{DStream, Record, Result, Slack, text::words};

use super::{SECOND, arrivals, by_interval, end_of, ends, feed, random, sql, table};
use crate::program::block_on;

#[derive(Record, Debug, Clone)]
struct Post {
    lang: Option<String>,
    text: String,
    at_ms: i64,
}

#[derive(Record, Debug, Clone)]
#[record(key)]
struct Tag {
    lang: String,
    tag: String,
}

#[derive(Record, Debug, Clone, PartialEq)]
struct LanguageTop {
    lang: String,
    tag: String,
    uses: i64,
}

type Tops = (DStream<(String, i64)>, DStream<LanguageTop>);

fn describe(posts: &DStream<Post>) -> Result<Tops> {
    let posts = posts.by_time("posts", |post| post.at_ms, Slack::of(2 * SECOND))?;
    let tags = posts.records().flat_map::<Tag>(|post, out| {
        let lang = post.lang.unwrap_or("und").to_owned();
        for tag in words(post.text).filter_map(|word| word.strip_prefix('#')) {
            out.push(Tag {
                lang: lang.clone(),
                tag: tag.to_lowercase(),
            });
        }
    });
    let of_all = tags.map(|tag| tag.tag.to_owned()).keyed();
    let of_all = of_all.window_agg(10 * SECOND, 2 * SECOND, count())?.top(3);
    let of_each = tags.keyed().window_agg(10 * SECOND, 2 * SECOND, count())?;
    let of_each = of_each.sql(
        "select lang, tag, uses from (
           select key_lang as lang, key_tag as tag, value as uses,
                  row_number() over (partition by key_lang order by value desc, key_tag) as place
           from this)
         where place <= 2 order by lang, place",
    )?;
    Ok((of_all, of_each))
}

#[test]
fn hashtags_by_the_time_of_their_posts() {
    const LANGS: [Option<&str>; 3] = [Some("de"), Some("en"), None];
    const TAGS: [&str; 5] = ["Rust", "arrow", "Zug", "tee", "Wetter"];
    block_on(async {
        let mut test = TestProgram::new(SECOND).unwrap();
        let (queue, posts) = test.context().queue::<Post>("posts");
        let (of_all, of_each) = describe(&posts).unwrap();
        let (mut of_all, mut of_each) = (of_all.collect(), of_each.collect());

        // One in eight is sent up to four seconds late, and some of these too late.
        let (mut sent, mut in_time) = (Vec::new(), Vec::new());
        for n in 0..300 {
            let (at_ms, r) = (n * 80, random(n as u64));
            let delay = if r.is_multiple_of(8) {
                r / 8 % 4_000
            } else {
                0
            } as i64;
            let lang = LANGS[(r / 100 % 3) as usize].map(str::to_owned);
            let tags = [r / 1_000 % 5, r / 10_000 % 5].map(|tag| TAGS[tag as usize]);
            let text = format!("seen today: #{} and #{}", tags[0], tags[1]);
            sent.push((
                at_ms + delay,
                Post {
                    lang: lang.clone(),
                    text,
                    at_ms,
                },
            ));
            if end_of(at_ms + delay, 1_000) <= end_of(at_ms, 1_000) + 2_000 {
                let lang = lang.unwrap_or("und".to_owned());
                in_time.extend(tags.map(|tag| (lang.clone(), (tag.to_lowercase(), at_ms))));
            }
        }
        assert!(in_time.len() < 600, "nothing is late");
        let mut run = test.start().await.unwrap();
        feed(&mut run, &queue, arrivals(sent, 30)).await;
        run.stop().await.unwrap();

        let tables = [("tags", table(&in_time)), ("ends", ends(2_000, 28_000))];
        let tops = async |lang: &str, most: usize| {
            let query = format!(
                "select w, lang, tag, uses from (
                   select w, lang, tag, uses,
                          row_number() over (partition by w, lang order by uses desc, tag) as place
                   from (select e.value as w, {lang} as lang, t.value_key as tag, count(*) as uses
                         from tags t join ends e
                           on t.value_value < e.value and t.value_value >= e.value - 10000
                         group by 1, 2, 3))
                 where place <= {most} order by w, lang, place"
            );
            sql::<(i64, String, String, i64)>(&tables, &query).await
        };
        let found = by_interval(&mut of_all).into_iter();
        let found = found.map(|(end, (tag, uses))| (end, "all".to_owned(), tag, uses));
        assert_eq!(
            found.collect::<Vec<_>>(),
            tops("arrow_cast('all', 'Utf8View')", 3).await
        );
        let found = by_interval(&mut of_each).into_iter();
        let found = found.map(|(end, top)| (end, top.lang, top.tag, top.uses));
        assert_eq!(found.collect::<Vec<_>>(), tops("t.key", 2).await);
    });
}
