package main

import (
	"encoding/json"
	"fmt"
	"sort"
	"strconv"
	"strings"
)

// A page is what a pod answers to a request for its metrics.
type page struct {
	Metrics []metric `json:"metrics"`
	// Sent as it is, in place of the metrics.
	Body *string `json:"body"`
	// Comment lines of so many bytes, after the metrics.
	PadBytes int `json:"padBytes"`
	// The HTTP status, 200 where it is 0.
	Status      int   `json:"status"`
	DelayMillis int64 `json:"delayMillis"`
	// Never answers.
	Hang bool `json:"hang"`
	// Begins to answer and never ends.
	Trickle bool `json:"trickle"`
	// Does not even listen.
	Refuse bool `json:"refuse"`
}

type metric struct {
	Name   string            `json:"name"`
	Labels map[string]string `json:"labels"`
	// gauge and counter show the level, growing is a counter that grows by the level each second.
	Kind  string `json:"kind"`
	Level level  `json:"level"`
}

// A level depends on how many pods of the workload are ready: the lowest bound that is above their number counts.
type level struct {
	Value      number  `json:"value"`
	ReadyBelow []bound `json:"readyBelow"`
}

type bound struct {
	Ready int    `json:"ready"`
	Value number `json:"value"`
}

// A number is a JSON string, so that it may be NaN or Inf.
type number float64

func (n *number) UnmarshalJSON(text []byte) error {
	var written string
	if err := json.Unmarshal(text, &written); err != nil {
		return err
	}
	value, err := strconv.ParseFloat(written, 64)
	*n = number(value)
	return err
}

func (l level) at(ready int) float64 {
	value, nearest := l.Value, -1
	for _, b := range l.ReadyBelow {
		if ready < b.Ready && (nearest < 0 || b.Ready < nearest) {
			value, nearest = b.Value, b.Ready
		}
	}
	return float64(value)
}

func parsePage(text string) (*page, error) {
	p := &page{}
	decoder := json.NewDecoder(strings.NewReader(text))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(p); err != nil {
		return nil, err
	}
	for _, m := range p.Metrics {
		switch m.Kind {
		case "gauge", "counter", "growing":
		default:
			return nil, fmt.Errorf("metric %s: kind %q is none of gauge, counter, growing", m.Name, m.Kind)
		}
	}
	return p, nil
}

func (m *metric) series() string {
	if len(m.Labels) == 0 {
		return m.Name
	}
	labels := make([]string, 0, len(m.Labels))
	for name, value := range m.Labels {
		escaped := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(value)
		labels = append(labels, name+`="`+escaped+`"`)
	}
	sort.Strings(labels)
	return m.Name + "{" + strings.Join(labels, ",") + "}"
}

// text is the page in Prometheus' text format; grown has the values of what grows, by series.
func (p *page) text(ready int, grown map[string]float64) string {
	if p.Body != nil {
		return *p.Body
	}
	var text strings.Builder
	typed := map[string]bool{}
	for _, m := range p.Metrics {
		kind, value := m.Kind, m.Level.at(ready)
		if kind == "growing" {
			kind, value = "counter", grown[m.series()]
		}
		if !typed[m.Name] {
			typed[m.Name] = true
			fmt.Fprintf(&text, "# HELP %s Simulated.\n# TYPE %s %s\n", m.Name, m.Name, kind)
		}
		fmt.Fprintf(&text, "%s %s\n", m.series(), strconv.FormatFloat(value, 'g', -1, 64))
	}
	if p.PadBytes > 0 {
		line := "# " + strings.Repeat("x", 77) + "\n"
		text.WriteString(strings.Repeat(line, (p.PadBytes+len(line)-1)/len(line)))
	}
	return text.String()
}
