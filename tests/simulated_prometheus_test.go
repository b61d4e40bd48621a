package tests

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/vhost-user-vsock/vhost-user-vsock/tests/vm"
)

const (
	prometheusTools = "../build/prometheus/usr/bin/"
	contribDir      = "../contrib/prometheus/"
	dashboardFile   = "../contrib/grafana/vhost-user-vsock.json"
)

// dashboard is what the tests look at of a dashboard of Grafana's.
type dashboard struct {
	SchemaVersion int
	Templating    struct {
		List []struct{ Name, Type, Definition string }
	}
	Panels []struct {
		ID                       int
		Type, Title, Description string
		GridPos                  struct{ H, W, X, Y int }
		Datasource               struct{ Type, UID string }
		Targets                  []struct{ RefID, Expr, LegendFormat string }
	}
}

func readDashboard(t *testing.T) (d dashboard) {
	t.Helper()
	if err := json.Unmarshal([]byte(mustReadFile(t, dashboardFile)), &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// alert is a rule that may fire.
type alert struct {
	Alert, Expr         string
	Labels, Annotations map[string]string
}

func readAlerts(t *testing.T) (alerts []alert) {
	t.Helper()
	var file struct{ Groups []struct{ Rules []alert } }
	if err := yaml.Unmarshal([]byte(mustReadFile(t, contribDir+"alerts.yml")), &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		alerts = append(alerts, g.Rules...)
	}
	return alerts
}

func mustReadFile(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// Grafana takes a panel that is wrong for one that is empty.
func TestDashboardIsWellFormed(t *testing.T) {
	d := readDashboard(t)
	if d.SchemaVersion < 36 { // Grafana 10 migrates older ones, and may guess
		t.Errorf("schema %d", d.SchemaVersion)
	}
	defined := map[string]bool{"__rate_interval": true}
	for _, v := range d.Templating.List {
		defined[v.Name] = true
	}
	ids, taken := make(map[int]bool), make(map[[2]int]string)
	for _, p := range d.Panels {
		if ids[p.ID] || p.Title == "" {
			t.Errorf("panel %q with the ID %d", p.Title, p.ID)
		}
		ids[p.ID] = true
		for x := p.GridPos.X; x < p.GridPos.X+p.GridPos.W; x++ {
			for y := p.GridPos.Y; y < p.GridPos.Y+p.GridPos.H; y++ {
				if other := taken[[2]int{x, y}]; other != "" || x >= 24 {
					t.Fatalf("panel %q lies outside or upon %q", p.Title, other)
				}
				taken[[2]int{x, y}] = p.Title
			}
		}
		if p.Type == "row" {
			continue
		}
		if p.Description == "" || p.Datasource.Type != "prometheus" || p.Datasource.UID != "${datasource}" || len(p.Targets) == 0 {
			t.Errorf("panel %q: %+v", p.Title, p)
		}
		refs := make(map[string]bool)
		for _, q := range p.Targets {
			if q.RefID == "" || refs[q.RefID] || q.LegendFormat == "" {
				t.Errorf("panel %q: query %+v", p.Title, q)
			}
			refs[q.RefID] = true
			for _, v := range regexp.MustCompile(`\$\{?(\w+)`).FindAllStringSubmatch(q.Expr, -1) {
				if !defined[v[1]] {
					t.Errorf("panel %q: no variable is named %s", p.Title, v[1])
				}
			}
		}
	}
}

// Each alert fires when it is to, which promtool finds out, and says what to do.
func TestAlerts(t *testing.T) {
	for _, args := range [][]string{
		{"check", "config", "prometheus.yml"},
		{"check", "rules", "alerts.yml"},
		{"test", "rules", "alerts_test.yml"},
	} {
		cmd := exec.Command(mustAbs(t, prometheusTools+"promtool"), args...)
		cmd.Dir = contribDir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
	tests := mustReadFile(t, contribDir+"alerts_test.yml")
	for _, a := range readAlerts(t) {
		if a.Annotations["summary"] == "" || !strings.HasSuffix(a.Annotations["runbook"], ".") || a.Labels["severity"] == "" {
			t.Errorf("%s: %v, %v", a.Alert, a.Labels, a.Annotations)
		}
		if strings.Count(tests, fmt.Sprintf("alertname=%q", a.Alert)) != 2 {
			t.Errorf("%s: no test of when it fires and when not", a.Alert)
		}
	}
}

// mustAbs returns the path of a file from wherever one is.
func mustAbs(t *testing.T, path string) string {
	t.Helper()
	abs, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return abs
}

// A real server scrapes a daemon under load by the configuration that we give away.
// Whatever the dashboard, the alerts and the README speak of is there.
func TestSimulatedPrometheus(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	b := h.boot(t)
	defer keepBusy(t, b)()
	p := startPrometheus(t, h)
	vm.Eventually(t, patience, "the daemon was scraped a few times", func() bool {
		return slices.ContainsFunc(p.query(t, `count_over_time(up[1m])`), func(v string) bool { return len(v) > 1 || v > "4" })
	})

	var queries []string
	for _, panel := range readDashboard(t).Panels {
		for _, q := range panel.Targets {
			queries = append(queries, strings.NewReplacer("$job", ".*", "$vm", ".*", "$__rate_interval", "1m").Replace(q.Expr))
		}
	}
	comparison := regexp.MustCompile(` (==|>|<) [0-9.]+$`)
	for _, a := range readAlerts(t) {
		expr := comparison.ReplaceAllString(a.Expr, "")
		if expr == a.Expr {
			t.Errorf("%s compares with no number at its end", a.Alert)
		}
		queries = append(queries, expr)
	}
	for _, reason := range []string{"credit", "host_socket"} { // which the load provokes
		queries = append(queries, fmt.Sprintf(`sum(rate(vhost_user_vsock_connection_stall_seconds_total{reason=%q}[1m])) > 0`, reason))
	}
	for _, q := range queries {
		vm.Eventually(t, patience, "data for "+q, func() bool {
			return slices.ContainsFunc(p.query(t, q), func(v string) bool { return v != "NaN" })
		})
	}
	vm.Eventually(t, patience, "the rules are evaluated", func() bool { return p.evaluates(t, len(readAlerts(t))) })
	expectMetrics(t, h)
}

// keepBusy has a guest and host programs move bytes until stop is called, while one
// program of each side does not read.
func keepBusy(t *testing.T, b *board) (stop func()) {
	t.Helper()
	const much = 2 * mib // more than all buffers on the way
	deafHost, deafGuest := make(chan struct{}), make(chan struct{})
	g, _ := b.dial()
	go func() { defer close(deafHost); g.Write(make([]byte, much)) }()
	c, _ := b.call()
	go func() { defer close(deafGuest); c.Write(make([]byte, much)) }()

	stopping, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stopping:
				return
			default:
				b.mustWork(64 * kib)
			}
		}
	}()
	return func() {
		close(stopping)
		<-stopped
		c.Close()
		g.Reset()
		<-deafHost
		<-deafGuest
	}
}

// prometheus is a server of Debian's.
type prometheus struct{ url string }

// startPrometheus has a server scrape a daemon by our configuration, only more often.
func startPrometheus(t *testing.T, h *host) prometheus {
	t.Helper()
	dir := t.TempDir()
	target := strings.TrimSuffix(strings.TrimPrefix(h.Metrics, "http://"), "/metrics")
	config := strings.NewReplacer("127.0.0.1:9101", target, "15s", "200ms").Replace(mustReadFile(t, contribDir+"prometheus.yml"))
	for name, text := range map[string]string{"prometheus.yml": config, "alerts.yml": mustReadFile(t, contribDir+"alerts.yml")} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	addr := vm.FreeAddr(t)
	cmd := exec.Command(prometheusTools+"prometheus", "--config.file", filepath.Join(dir, "prometheus.yml"),
		"--storage.tsdb.path", filepath.Join(dir, "data"), "--web.listen-address", addr)
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatalf("%v; `make deps` brings it", err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	p := prometheus{url: "http://" + addr}
	vm.Eventually(t, patience, "Prometheus is ready", func() bool {
		resp, err := http.Get(p.url + "/-/ready")
		if err != nil {
			return false
		}
		resp.Body.Close()
		return resp.StatusCode == http.StatusOK
	})
	return p
}

// api asks for a path of the server's interface and puts the answer's data into data.
func (p prometheus) api(t *testing.T, path string, data any) {
	t.Helper()
	client := http.Client{Timeout: patience}
	resp, err := client.Get(p.url + "/api/v1/" + path)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s: %s %s, error %v", path, answer.Status, answer.Error, err)
	}
}

// query returns the values of a query's result at this moment.
func (p prometheus) query(t *testing.T, expr string) (values []string) {
	t.Helper()
	var data struct{ Result []struct{ Value [2]any } }
	p.api(t, "query?query="+url.QueryEscape(expr), &data)
	for _, series := range data.Result {
		values = append(values, series.Value[1].(string))
	}
	return values
}

// evaluates reports whether the server has evaluated n rules, and all of them well.
func (p prometheus) evaluates(t *testing.T, n int) bool {
	t.Helper()
	var data struct {
		Groups []struct {
			Rules []struct{ Name, Health, LastError string }
		}
	}
	p.api(t, "rules", &data)
	for _, g := range data.Groups {
		for _, r := range g.Rules {
			if r.Health == "err" {
				t.Fatalf("%s: %s", r.Name, r.LastError)
			}
			if r.Health == "ok" {
				n--
			}
		}
	}
	return n == 0
}

// expectMetrics wants every metric to be there that the dashboard, the alerts or the
// README names.
func expectMetrics(t *testing.T, h *host) {
	t.Helper()
	exists := make(map[string]bool)
	for series := range h.Scrape(t) {
		name, _, _ := strings.Cut(series, "{")
		exists[name] = true
		for _, suffix := range []string{"_bucket", "_count", "_sum"} {
			exists[strings.TrimSuffix(name, suffix)] = true
		}
	}
	named := make(map[string]string) // where
	for _, file := range []string{dashboardFile, contribDir + "alerts.yml", contribDir + "alerts_test.yml", "../README.md", "../docs/ARCHITECTURE.md", "../docs/CONFIG.md"} {
		for _, name := range regexp.MustCompile(`vhost_user_vsock_\w+`).FindAllString(mustReadFile(t, file), -1) {
			named[name] = file
		}
	}
	_, section, _ := strings.Cut(mustReadFile(t, "../README.md"), "\n## Metrics\n")
	section, _, _ = strings.Cut(section, "\n## ")
	columns := regexp.MustCompile(`(?m)^\| (.*?) \|`).FindAllString(section, -1)
	for _, name := range regexp.MustCompile("`([a-z_]+)(?:\\{[^}]*\\})?`").FindAllStringSubmatch(strings.Join(columns, "\n"), -1) {
		named["vhost_user_vsock_"+name[1]] = "../README.md"
	}
	if len(columns) < 10 || len(named) < 50 {
		t.Errorf("only %d metrics are named, %d rows of the README", len(named), len(columns))
	}
	for _, name := range slices.Sorted(maps.Keys(named)) {
		if !exists[name] {
			t.Errorf("%s names %s, which is no metric", named[name], name)
		}
	}
}
