package ctl

import (
	"bytes"
	"context"
	"encoding/json"
	"net"
	"net/http"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/control"
)

func TestCommands(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	for _, tt := range []struct {
		args   []string
		asked  string
		stdout string
		asJSON string
	}{
		{
			args:   []string{"add", "name=new,socket=s,uds-path=/u,packed"},
			asked:  `add {"name":"new","packed":"true","socket":"` + dir + `/s","uds-path":"/u"}`,
			stdout: "new is there: its VMM connects to /s, host programs to /u\n",
		},
		{args: []string{"remove", "web"}, asked: "remove web", stdout: "web is gone\n"},
		{
			args: []string{"drain", "web"}, asked: "drain web within 0s",
			stdout: "web is gone; no connection was cut\n", asJSON: `{"connections_cut":0}`,
		},
		{args: []string{"drain", "web", "--timeout", "90s"}, asked: "drain web within 1m30s", stdout: "web is gone; no connection was cut\n"},
		{args: []string{"connections", "web"}, asked: "connections of web", stdout: connectionsTable[1:]},
		{args: []string{"log-level"}, stdout: "info\n", asJSON: `{"level":"info"}`},
		{args: []string{"log-level", "debug"}, asked: "log-level debug", stdout: "debug\n", asJSON: `{"level":"debug"}`},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			d := startTestDaemon(t, &testDaemon{conns: someConnections})
			code, stdout, stderr := d.ctl(tt.args...)
			if code != exitOK || stdout != tt.stdout || stderr != "" {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
			if asked := strings.Join(d.asked, ", "); asked != tt.asked {
				t.Errorf("the daemon was asked for %q, want %q", asked, tt.asked)
			}
			code, stdout, stderr = d.ctl(append(tt.args, "--json")...)
			var compact bytes.Buffer
			if stdout != "" {
				if err := json.Compact(&compact, []byte(stdout)); err != nil {
					t.Errorf("not JSON: %v: %s", err, stdout)
				}
			}
			if tt.asJSON != "" && compact.String() != tt.asJSON || code != exitOK || stderr != "" {
				t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
			}
		})
	}
}

func TestDrainTellsWhatWasCut(t *testing.T) {
	d := startTestDaemon(t, &testDaemon{cut: 3})
	if _, stdout, _ := d.ctl("drain", "web"); stdout != "web is gone; connections cut: 3\n" {
		t.Errorf("stdout %q", stdout)
	}
}

// What programs read with --json is what the daemon answers.
func TestJSONIsTheAnswer(t *testing.T) {
	d := startTestDaemon(t, &testDaemon{vms: someVMs, conns: someConnections, silent: []string{"bad"}})
	http := http.Client{Transport: &http.Transport{
		DialContext: func(context.Context, string, string) (net.Conn, error) { return net.Dial("unix", d.path) }, DisableKeepAlives: true,
	}}
	for command, path := range map[string]string{"vms": "/v1/vms", "connections": "/v1/connections"} {
		resp, err := http.Get("http://control" + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		var want, got any
		if err := json.NewDecoder(resp.Body).Decode(&want); err != nil {
			t.Fatal(err)
		}
		_, stdout, _ := d.ctl(command, "--json")
		if err := json.Unmarshal([]byte(stdout), &got); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: error %v:\n%s\nwant %v", command, err, stdout, want)
		}
		if lines := strings.ReplaceAll(stdout, "\n", ""); plain(lines) != lines {
			t.Errorf("%s: not plain: %q", command, stdout)
		}
	}
}

func TestRefusals(t *testing.T) {
	d := startTestDaemon(t, &testDaemon{fails: &control.Error{Status: http.StatusConflict, Text: "name \"web\x1b[2J\": taken"}})
	for _, args := range [][]string{
		{"add", "name=web"}, {"remove", "web"}, {"drain", "web"}, {"log-level", "loud"}, {"connections", "web"}, {"remove", "web", "--json"},
	} {
		code, stdout, stderr := d.ctl(args...)
		if code != exitError || stdout != "" || stderr != `vhost-user-vsock ctl: name "web\x1b[2J": taken`+"\n" {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", args, code, stdout, stderr)
		}
	}
}

func TestNobodyListens(t *testing.T) {
	dir := t.TempDir()
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	l.Close()
	for _, path := range []string{stale, filepath.Join(dir, "none")} {
		for _, command := range [][]string{{"vms"}, {"top"}, {"remove", "web"}} {
			var stdout, stderr bytes.Buffer
			code := Run(append([]string{"--control=" + path}, command...), &stdout, &stderr)
			want := "nobody listens at " + path + ": is the daemon running with --control " + path + "?\n"
			if code != exitError || stdout.Len() > 0 || !strings.HasSuffix(stderr.String(), want) {
				t.Errorf("%s: exit code %d, stdout %q, stderr %q", command, code, &stdout, &stderr)
			}
		}
	}
}

func TestWrongCommandLines(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want string
	}{
		{nil, "no command; give one of vms, connections, add"},
		{[]string{"--json"}, "no command"},
		{[]string{"vm\x1b[2Js"}, `"vm\x1b[2Js": no such command; give one of vms,`},
		{[]string{"vms", "web"}, `vms: argument "web" is too many; give vms`},
		{[]string{"connections", "a", "b"}, `argument "b" is too many; give connections [VM]`},
		{[]string{"remove"}, "remove: an argument is missing; give remove VM"},
		{[]string{"drain", "web", "--timeout", "soon"}, "not a time"},
		{[]string{"drain", "web", "--timeout=-1s"}, "not a time"},
		{[]string{"remove", "web", "--timeout", "1s"}, "--timeout: nothing for remove"},
		{[]string{"top", "--json"}, "--json: nothing for top"},
		{[]string{"vms", "--jsno"}, "--jsno"},
		{[]string{"vms", "--control"}, "--control"},
		{[]string{"add", "name=web,soket=x"}, `add "name=web,soket=x": soket: no option`},
		{[]string{"add", "web"}, "web"},
	} {
		var stdout, stderr bytes.Buffer
		code := Run(tt.args, &stdout, &stderr)
		if text := stderr.String(); code != exitUsage || stdout.Len() > 0 || !strings.Contains(text, tt.want) || !strings.HasSuffix(text, "\nTry 'vhost-user-vsock ctl --help'.\n") {
			t.Errorf("%q: exit code %d, stdout %q, stderr %q", tt.args, code, &stdout, text)
		}
	}
}

// Options may stand anywhere, and a name that looks like one behind two dashes.
func TestOptionsStandAnywhere(t *testing.T) {
	for _, args := range [][]string{
		{"--timeout", "5s", "--json", "--control", "c", "drain", "web"},
		{"drain", "--json", "web", "-control=c", "--timeout=5s"},
		{"--json", "drain", "--timeout=5s", "--control", "c", "--", "web"},
	} {
		l, err := parse(args)
		if err != nil || l.command.Name != "drain" || !slices.Equal(l.args, []string{"web"}) || !l.json || l.control != "c" || l.timeout.Seconds() != 5 {
			t.Errorf("%q: %+v, error %v", args, l, err)
		}
	}
	if _, err := parse([]string{"connections", "--", "a", "--json"}); err == nil || !strings.Contains(err.Error(), `"--json" is too many`) {
		t.Errorf("error %v", err)
	}
	l, err := parse([]string{"remove", "--", "--json"})
	if err != nil || !slices.Equal(l.args, []string{"--json"}) || l.json || l.control != DefaultControl {
		t.Errorf("%+v, error %v", l, err)
	}
}

func TestHelp(t *testing.T) {
	var all []string
	for _, c := range Commands() {
		all = append(all, c.Name)
	}
	for _, tt := range []struct {
		args []string
		of   []string // the commands that it explains
	}{
		{[]string{"--help"}, all},
		{[]string{"-h"}, all},
		{[]string{"drain", "--help"}, []string{"drain"}},
		{[]string{"--help", "drain"}, []string{"drain"}},
		{[]string{"connections", "-h", "a", "b"}, []string{"connections"}},
	} {
		var stdout, stderr bytes.Buffer
		if code := Run(tt.args, &stdout, &stderr); code != exitOK || stderr.Len() > 0 {
			t.Errorf("%q: exit code %d, stderr %q", tt.args, code, &stderr)
		}
		var of []string
		for line := range strings.Lines(stdout.String()) {
			if len(line) > 81 || strings.HasSuffix(line, " \n") {
				t.Errorf("%q: line %q", tt.args, line)
			}
			for _, c := range Commands() {
				if strings.HasSuffix(line, " "+c.Usage()+"\n") {
					of = append(of, c.Name)
				}
			}
		}
		if !slices.Equal(of, tt.of) {
			t.Errorf("%q explains %q", tt.args, of)
		}
	}
}
