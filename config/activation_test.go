package config

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/activated"
)

// passOn returns a socket that listens, as the service manager passes it on.
func passOn(t *testing.T, name, network, addr string) *activated.Socket {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return activated.New(name, f)
}

func loadWith(sockets []*activated.Socket, args ...string) (Daemon, error) {
	line, err := ParseArgs(args)
	if err != nil {
		return Daemon{}, err
	}
	return line.Load(sockets)
}

// vmFlags are two VMs with sockets in dir.
func vmFlags(dir string) []string {
	return []string{
		"--vm", "name=a,socket=" + dir + "/sa,uds-path=" + dir + "/ua",
		"--vm", "name=b,guest-cid=4,socket=" + dir + "/sb,uds-path=" + dir + "/ub",
	}
}

func TestActivationByName(t *testing.T) {
	dir := inTempDir(t)
	a := passOn(t, "a/socket", "unix", dir+"/sa")
	b := passOn(t, "b/uds-path", "unix", dir+"/ub")
	packets := passOn(t, "b/uds-path_seqpacket", "unixpacket", dir+"/ub_seqpacket")
	metrics := passOn(t, "metrics-addr", "tcp", "127.0.0.1:0")
	all := []*activated.Socket{a, b, packets, metrics}
	got, err := loadWith(all, vmFlags(dir)...)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Activated{Socket: a}); got.VMs[0].Activated != want {
		t.Errorf("a has %v", got.VMs[0].Activated)
	}
	if want := (Activated{UDS: b, Seqpacket: packets}); got.VMs[1].Activated != want {
		t.Errorf("b has %v", got.VMs[1].Activated)
	}
	if got.ActivatedMetrics != metrics || got.MetricsAddr != metrics.Address {
		t.Errorf("metrics at %q by %v", got.MetricsAddr, got.ActivatedMetrics)
	}
	// What is made lies in directories; what was inherited needs none.
	if dirs := got.Paths().Sockets; len(dirs) != 2 { // ua, sb
		t.Errorf("directories %q", dirs)
	}
}

// With one VM its name may be left out, and --socket.
func TestActivationOfOneVM(t *testing.T) {
	dir := inTempDir(t)
	for _, name := range []string{"socket", "web/socket"} {
		s := passOn(t, name, "unix", filepath.Join(dir, strings.ReplaceAll(name, "/", "")))
		got, err := loadWith([]*activated.Socket{s}, "--name", "web", "--uds-path", "u")
		if err != nil {
			t.Fatal(err)
		}
		if v := got.VMs[0]; v.Activated.Socket != s || v.Socket != s.Path() || v.Frontend != SocketFile {
			t.Errorf("%s: %+v", name, v)
		}
	}
	abstract := passOn(t, "socket", "unix", "@"+dir)
	got, err := loadWith([]*activated.Socket{abstract}, "--uds-path", "u")
	if err != nil {
		t.Fatal(err)
	}
	if v := got.VMs[0]; v.Activated.Socket != abstract || v.Socket != "" {
		t.Errorf("%+v", v)
	}
}

// Any other name goes by the address, however the option spells it.
func TestActivationByAddress(t *testing.T) {
	dir := inTempDir(t)
	if err := os.Symlink(dir, "link"); err != nil {
		t.Fatal(err)
	}
	const unit = "vhost-user-vsock@main.socket"
	s := passOn(t, unit, "unix", dir+"/s")
	u := passOn(t, unit, "unix", dir+"/u")
	packets := passOn(t, unit, "unixpacket", dir+"/u_seqpacket")
	metrics := passOn(t, unit, "tcp", "127.0.0.1:0")
	got, err := loadWith([]*activated.Socket{packets, u, metrics, s},
		"--socket", "s", "--uds-path", "link/u", "--metrics-addr", metrics.Address)
	if err != nil {
		t.Fatal(err)
	}
	if want := (Activated{s, u, packets}); got.VMs[0].Activated != want || got.ActivatedMetrics != metrics {
		t.Errorf("got %+v, metrics %v", got.VMs[0].Activated, got.ActivatedMetrics)
	}
}

func TestActivationOfAllAddresses(t *testing.T) {
	for _, tt := range []struct {
		bound, at string
		want      bool
	}{
		{"127.0.0.1:9", "127.0.0.1:9", true},
		{"127.0.0.1:9", "[::ffff:127.0.0.1]:9", true},
		{"[::]:9", ":9", true},
		{"0.0.0.0:9", ":9", true},
		{"0.0.0.0:9", "[::]:9", false},
		{"127.0.0.1:9", ":9", false},
		{"127.0.0.1:9", "127.0.0.1:19", false},
		{"127.0.0.1:9", "localhost:9", false},
	} {
		if got := sameTCP(tt.bound, tt.at); got != tt.want {
			t.Errorf("%s and %s: %v", tt.bound, tt.at, got)
		}
	}
}

func TestActivationRefuses(t *testing.T) {
	dir := inTempDir(t)
	fds, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer fds.Close()
	n := 0
	at := func(name, network string) *activated.Socket {
		n++
		return passOn(t, name, network, filepath.Join(dir, strings.Repeat("x", n)))
	}
	one := []string{"--socket", "s", "--uds-path", "u"}
	alone := []string{"--uds-path", "u"}
	for _, tt := range []struct {
		name    string
		sockets []*activated.Socket
		args    []string
		want    []string
	}{
		{"no such name", []*activated.Socket{at("sokcet", "unix")}, one,
			[]string{`"sokcet"`, dir + "/x", "socket at s", "uds-path at u", "uds-path_seqpacket at u_seqpacket", "metrics-addr"}},
		{"no such VM", []*activated.Socket{at("c/socket", "unix")}, vmFlags(dir), []string{`"c/socket"`, "a/socket at " + dir + "/sa", "b/uds-path at "}},
		{"which VM", []*activated.Socket{at("socket", "unix")}, vmFlags(dir), []string{`"socket"`, "a/socket at "}},
		{"another address", []*activated.Socket{at("socket", "unix")}, one, []string{`"socket"`, "at s;"}},
		{"another TCP address", []*activated.Socket{passOn(t, "metrics-addr", "tcp", "127.0.0.1:0")},
			append([]string{"--metrics-addr", "localhost:9101"}, one...), []string{`"metrics-addr"`, "at localhost:9101;"}},
		{"type", []*activated.Socket{at("socket", "unixpacket")}, alone, []string{`"socket"`, "unixpacket socket", "takes a unix one"}},
		{"type at the address", []*activated.Socket{passOn(t, "unit", "unix", dir+"/u_seqpacket")}, one, []string{`"unit"`, "takes a unixpacket one"}},
		{"family", []*activated.Socket{passOn(t, "socket", "tcp", "127.0.0.1:0")}, alone, []string{`"socket"`, "tcp socket"}},
		{"family of metrics", []*activated.Socket{at("metrics-addr", "unix")}, one, []string{`"metrics-addr"`, "takes a tcp one"}},
		{"twice", []*activated.Socket{at("socket", "unix"), at("socket", "unix")}, alone, []string{`"socket"`, "too"}},
		{"no socket", []*activated.Socket{activated.New("socket", fds)}, alone, []string{`"socket"`, "pass on a socket"}},
		{"no socket for nothing", []*activated.Socket{activated.New("file", fds)}, one, []string{`"file"`, "pass on a socket"}},
		{"beside --fd", []*activated.Socket{at("socket", "unix")}, append([]string{"--fd", "0"}, alone...), []string{`"socket"`, "--fd"}},
		{"where a guest looks", []*activated.Socket{passOn(t, "socket", "unix", dir+"/u_22")}, alone, []string{"u_22", "conflict"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := loadWith(tt.sockets, tt.args...)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %v, want %q in it", err, want)
				}
			}
		})
	}
}

// A descriptor that --fd takes is nothing else.
func TestActivationLeavesFDs(t *testing.T) {
	inTempDir(t)
	s := passOn(t, "socket", "unix", "relative")
	got, err := loadWith([]*activated.Socket{s}, "--fd", strconv.Itoa(s.FD), "--uds-path", "u")
	if err != nil {
		t.Fatal(err)
	}
	if v := got.VMs[0]; v.Frontend != ListeningFD || v.Activated.Socket != nil {
		t.Errorf("%+v", v)
	}
}

// Sockets stay with their VMs for as long as their paths do, and wait for one that has
// its path again.
func TestActivationAndReload(t *testing.T) {
	dir := inTempDir(t)
	a := passOn(t, "socket", "unix", dir+"/sa")
	ua := passOn(t, "unit", "unix", dir+"/ua")
	file := func(vms string) {
		t.Helper()
		if err := os.WriteFile("f", []byte("vms:\n"+strings.ReplaceAll(vms, "DIR", dir)), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	file("- {name: a, uds-path: DIR/ua}\n")
	line, err := ParseArgs([]string{"--config", "f"})
	if err != nil {
		t.Fatal(err)
	}
	d, err := line.Load([]*activated.Socket{a, ua})
	if err != nil {
		t.Fatal(err)
	}
	const b = "- {name: b, guest-cid: 4, socket: DIR/sb, uds-path: DIR/ub}\n"
	for _, tt := range []struct {
		file string
		want Activated // of the first
	}{
		{"- {name: a, uds-path: DIR/ua}\n" + b, Activated{Socket: a, UDS: ua}},
		{"- {name: a, socket: DIR/sa, uds-path: DIR/ua}\n" + b, Activated{Socket: a, UDS: ua}},
		{"- {name: a, socket: DIR/sa, uds-path: DIR/ua2}\n" + b, Activated{Socket: a}},
		{"- {name: a, socket: DIR/sa2, uds-path: DIR/ua}\n" + b, Activated{UDS: ua}},
		{b, Activated{}},
		{"- {name: c, uds-path: DIR/ua}\n", Activated{Socket: a, UDS: ua}},
		{"- {name: c, socket: DIR/sa, uds-path: DIR/ua}\n" + b, Activated{Socket: a, UDS: ua}},
	} {
		file(tt.file)
		if d, err = line.Reload(d, func(string, Use) error { return nil }); err != nil {
			t.Fatalf("%s: %v", tt.file, err)
		}
		if got := d.VMs[0].Activated; got != tt.want {
			t.Errorf("%s: got %v", tt.file, got)
		}
	}
	file("- {name: c, uds-path: DIR/ua}\n" + b)
	if _, err := line.Reload(d, func(string, Use) error { return nil }); err == nil || !strings.Contains(err.Error(), "f:2: socket: missing") {
		t.Errorf("error %v", err)
	}
}
