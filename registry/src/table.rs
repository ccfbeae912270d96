//! Text in columns. Pure.

/// Writes rows below a heading, each column as wide as it must be; the last one is not padded.
///
/// Cells may hold colours: width is counted without them.
pub(crate) fn render<const N: usize>(heading: [&str; N], rows: &[[String; N]]) -> String {
    let mut widths = heading.map(width);
    for row in rows {
        for (most, cell) in widths.iter_mut().zip(row) {
            *most = (*most).max(width(cell));
        }
    }
    let mut text = String::new();
    let mut line = |cells: &[&str]| {
        let mut written = String::new();
        for (cell, most) in cells.iter().zip(&widths) {
            written.push_str(cell);
            written.push_str(&" ".repeat(most.saturating_sub(width(cell)) + 2));
        }
        text.push_str(written.trim_end());
        text.push('\n');
    };
    line(&heading);
    for row in rows {
        line(&row.each_ref().map(String::as_str));
    }
    text
}

fn width(cell: &str) -> usize {
    anstream::adapter::strip_str(cell).to_string().chars().count()
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use owo_colors::OwoColorize as _;

    use super::*;

    #[test]
    fn columns_line_up_whatever_their_colour() {
        let rows = [
            ["web-1".to_owned(), "✓ converged".green().to_string(), String::new()],
            ["db-17-long".to_owned(), "↩ rolled_back".to_owned(), "why".to_owned()],
        ];
        let text = render(["HOST", "STATE", "REASON"], &rows);
        expect![[r#"
            HOST        STATE          REASON
            web-1       ✓ converged
            db-17-long  ↩ rolled_back  why
        "#]]
        .assert_eq(&anstream::adapter::strip_str(&text).to_string());
    }
}
