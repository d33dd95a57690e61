//! What a dashboard is made of, and its form in Grafana's JSON (kind `Dashboard`, schema version 39,
//! Grafana 11).

use anyhow::Result;
use serde_json::{Value, json};

/// Grafana's grid is so wide.
const GRID: u64 = 24;
/// Height of a panel, in rows of the grid.
const HEIGHT: u64 = 8;
/// Height of a single number.
const SHORT: u64 = 4;
/// Grafana 11's.
const SCHEMA_VERSION: u64 = 39;

pub struct Dashboard {
    /// Its address in Grafana and its file's name.
    pub uid: &'static str,
    pub title: &'static str,
    /// What it is for.
    pub description: &'static str,
    /// Choices at its top, each a label: its name and the metric whose values are offered.
    pub variables: &'static [(&'static str, &'static str)],
    /// Rows with their titles.
    pub rows: Vec<(&'static str, Vec<Panel>)>,
}

pub struct Panel {
    title: &'static str,
    description: &'static str,
    kind: Kind,
    unit: &'static str,
    queries: Vec<(&'static str, &'static str)>,
    thresholds: Vec<(&'static str, Option<f64>)>,
    width: u64,
    top: Option<f64>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    TimeSeries,
    Stat,
    Table,
}

impl Panel {
    /// A plot over time, half as wide as the screen.
    pub fn plot(title: &'static str, unit: &'static str, description: &'static str) -> Self {
        Self::new(Kind::TimeSeries, title, unit, description, 12)
    }

    /// A number, or a few.
    pub fn stat(title: &'static str, unit: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Stat, title, unit, description, 6)
    }

    /// A table of the series there are now, by their labels.
    pub fn table(title: &'static str, unit: &'static str, description: &'static str) -> Self {
        Self::new(Kind::Table, title, unit, description, GRID)
    }

    fn new(
        kind: Kind,
        title: &'static str,
        unit: &'static str,
        description: &'static str,
        width: u64,
    ) -> Self {
        let thresholds = vec![("green", None)];
        Self { title, description, kind, unit, queries: Vec::new(), thresholds, width, top: None }
    }

    /// One more query, with the legend of its series.
    pub fn query(mut self, expression: &'static str, legend: &'static str) -> Self {
        self.queries.push((expression, legend));
        self
    }

    /// Red from `value` on.
    pub fn red_from(mut self, value: f64) -> Self {
        self.thresholds.push(("red", Some(value)));
        self
    }

    /// Yellow from `value` on; to be said before red.
    pub fn yellow_from(mut self, value: f64) -> Self {
        self.thresholds.push(("yellow", Some(value)));
        self
    }

    /// Green only from `value` on.
    pub fn red_below(mut self, value: f64) -> Self {
        self.thresholds = vec![("red", None), ("green", Some(value))];
        self
    }

    pub fn wide(mut self, width: u64) -> Self {
        self.width = width;
        self
    }

    /// The axis ends at least there.
    pub fn up_to(mut self, top: f64) -> Self {
        self.top = Some(top);
        self
    }

    fn height(&self) -> u64 {
        if self.kind == Kind::Stat { SHORT } else { HEIGHT }
    }

    fn json(&self, id: u64, x: u64, y: u64) -> Value {
        let steps: Vec<Value> = self
            .thresholds
            .iter()
            .map(|(color, value)| json!({"color": color, "value": value}))
            .collect();
        let mut defaults = json!({
            "unit": self.unit,
            "thresholds": {"mode": "absolute", "steps": steps},
            "color": {"mode": if self.kind == Kind::TimeSeries { "palette-classic" } else { "thresholds" }},
        });
        if self.kind == Kind::TimeSeries {
            defaults["min"] = json!(0);
            // Thresholds are lines across the plot, where there are any.
            let line = if self.thresholds.len() > 1 { "dashed" } else { "off" };
            defaults["custom"] = json!({"thresholdsStyle": {"mode": line}, "fillOpacity": 10});
        }
        if let Some(top) = self.top {
            defaults["max"] = json!(top);
        }
        json!({
            "id": id,
            "type": self.kind.name(),
            "title": self.title,
            "description": self.description,
            "datasource": datasource(),
            "gridPos": {"x": x, "y": y, "w": self.width, "h": self.height()},
            "fieldConfig": {"defaults": defaults, "overrides": []},
            "options": self.kind.options(),
            "transformations": self.kind.transformations(),
            "targets": (0..).zip(&self.queries).map(|(n, query)| self.target(n, query)).collect::<Vec<_>>(),
        })
    }

    fn target(&self, number: u8, (expression, legend): &(&str, &str)) -> Value {
        let is_plot = self.kind == Kind::TimeSeries;
        json!({
            "refId": char::from(b'A' + number).to_string(),
            "datasource": datasource(),
            "expr": expression,
            "legendFormat": legend,
            "instant": !is_plot,
            "range": is_plot,
            "format": if self.kind == Kind::Table { "table" } else { "time_series" },
        })
    }
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::TimeSeries => "timeseries",
            Self::Stat => "stat",
            Self::Table => "table",
        }
    }

    fn options(self) -> Value {
        match self {
            Self::TimeSeries => json!({
                "legend": {"displayMode": "table", "placement": "bottom", "showLegend": true,
                           "calcs": ["lastNotNull", "max"]},
                "tooltip": {"mode": "multi", "sort": "desc"},
            }),
            Self::Stat => json!({
                "reduceOptions": {"calcs": ["lastNotNull"], "values": false, "fields": ""},
                "colorMode": "value", "graphMode": "none", "textMode": "auto",
                "justifyMode": "auto", "orientation": "auto",
            }),
            Self::Table => json!({"showHeader": true, "cellHeight": "sm"}),
        }
    }

    fn transformations(self) -> Value {
        match self {
            Self::Table => json!([{
                "id": "organize",
                "options": {"excludeByName": {"Time": true, "__name__": true, "job": true}},
            }]),
            Self::TimeSeries | Self::Stat => json!([]),
        }
    }
}

impl Dashboard {
    /// What Grafana reads.
    pub fn json(&self) -> Result<String> {
        let mut panels = Vec::new();
        let (mut id, mut y) = (0, 0);
        let mut next = || {
            id += 1;
            id
        };
        for (title, row) in &self.rows {
            panels.push(json!({
                "id": next(), "type": "row", "title": title, "collapsed": false, "panels": [],
                "gridPos": {"x": 0, "y": y, "w": GRID, "h": 1},
            }));
            y += 1;
            let (mut x, mut height) = (0, 0);
            for panel in row {
                if x + panel.width > GRID {
                    (x, y, height) = (0, y + height, 0);
                }
                panels.push(panel.json(next(), x, y));
                x += panel.width;
                height = height.max(panel.height());
            }
            y += height;
        }
        let dashboard = json!({
            "uid": self.uid,
            "title": self.title,
            "description": self.description,
            "tags": ["floodmark"],
            "schemaVersion": SCHEMA_VERSION,
            "version": 1,
            "editable": true,
            "graphTooltip": 1,
            "timezone": "browser",
            "refresh": "30s",
            "time": {"from": "now-1h", "to": "now"},
            "annotations": {"list": [alerts()]},
            "links": [{
                "type": "dashboards", "title": "Floodmark", "tags": ["floodmark"], "asDropdown": true,
                "includeVars": true, "keepTime": true, "targetBlank": false, "icon": "external link",
                "tooltip": "", "url": "",
            }],
            "templating": {"list": self.templating()},
            "panels": panels,
        });
        Ok(serde_json::to_string_pretty(&dashboard)? + "\n")
    }

    fn templating(&self) -> Vec<Value> {
        let source = json!({
            "name": "datasource", "label": "Data source", "type": "datasource",
            "query": "prometheus", "refresh": 1, "hide": 0,
            "current": {"selected": false, "text": "default", "value": "default"},
        });
        let choice = |(name, metric): &(&str, &str)| {
            let query = format!("label_values({metric}, {name})");
            json!({
                "name": name, "label": name, "type": "query", "datasource": datasource(),
                "definition": query, "query": {"query": query, "refId": "variable"},
                "refresh": 2, "sort": 1, "multi": true, "includeAll": true, "allValue": ".*", "hide": 0,
                "current": {"selected": true, "text": ["All"], "value": ["$__all"]},
            })
        };
        std::iter::once(source).chain(self.variables.iter().map(choice)).collect()
    }
}

fn datasource() -> Value {
    json!({"type": "prometheus", "uid": "${datasource}"})
}

/// Alerts that fire, across every plot.
fn alerts() -> Value {
    json!({
        "name": "Alerts", "datasource": datasource(), "enable": true, "iconColor": "red",
        "expr": "ALERTS{alertname=~\"Floodmark.*\", alertstate=\"firing\"}",
        "titleFormat": "{{alertname}}", "textFormat": "{{instance}} {{listener}} {{upstream}}",
    })
}
