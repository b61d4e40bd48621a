package config

import (
	"math"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/vhost-user-vsock/vhost-user-vsock/muxer"
	"github.com/vhost-user-vsock/vhost-user-vsock/sandbox"
)

// inTempDir makes a fresh directory the working directory and returns it.
func inTempDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Chdir(dir)
	return dir
}

// load is what the program does with its command line.
func load(args ...string) (Daemon, error) {
	line, err := ParseArgs(args)
	if err != nil {
		return Daemon{}, err
	}
	return line.Load(nil)
}

func mustLoad(t *testing.T, args ...string) Daemon {
	t.Helper()
	d, err := load(args...)
	if err != nil {
		t.Fatalf("load(%q): %v", args, err)
	}
	return d
}

// mustLoadOne returns the VM of a command line that has one.
func mustLoadOne(t *testing.T, args ...string) VM {
	t.Helper()
	d := mustLoad(t, args...)
	if len(d.VMs) != 1 {
		t.Fatalf("load(%q): %d VMs", args, len(d.VMs))
	}
	return d.VMs[0]
}

func TestConfigDefaults(t *testing.T) {
	inTempDir(t)
	got := mustLoad(t, "--socket", "s", "--uds-path", "u")
	want := Daemon{LogLevel: logrus.InfoLevel, LogFormat: LogText, VMs: []VM{{
		Name:           "cid3",
		Frontend:       SocketFile,
		Socket:         "s",
		SocketAccess:   Access{Mode: 0o600, UID: Unchanged, GID: Unchanged},
		FD:             NoFD,
		GuestCID:       CIDSource{CID: 3},
		UDSPath:        "u",
		UDSAccess:      Access{Mode: 0o600, UID: Unchanged, GID: Unchanged},
		OKPort:         muxer.OKShort,
		MaxConnections: 4096,
		MaxBuffered:    256 << 20,
		Poll:           40 * time.Microsecond,
	}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestConfigTakesEveryFlag(t *testing.T) {
	dir := inTempDir(t)
	got := mustLoad(t, "-socket-path=s", "--name", "web", "--uds-path=u", "--guest-cid", "4294967294",
		"--packed", "--inband-notifications=true", "--socket-mode", "660", "--socket-owner", "12:34", "--uds-mode", "0777", "--uds-owner", "56",
		"--ok-port", "guest", "--max-connections", "7", "--max-buffered", "1GiB", "--poll-us", "50", "--wait-for-guest", "1m30s", "--trace-packets", "t",
		"--log-level", "debug", "--log-format", "json", "--metrics-addr", "[::1]:9101", "--pprof", "--sandbox", "require")
	want := Daemon{LogLevel: logrus.DebugLevel, LogFormat: LogJSON, MetricsAddr: "[::1]:9101", Pprof: true, Sandbox: sandbox.Require, VMs: []VM{{
		Name:           "web",
		Named:          true,
		Frontend:       SocketFile,
		Socket:         "s",
		SocketAccess:   Access{Mode: 0o660, UID: 12, GID: 34},
		FD:             NoFD,
		GuestCID:       CIDSource{CID: math.MaxUint32 - 1},
		Packed:         true,
		InBand:         true,
		UDSPath:        "u",
		UDSAccess:      Access{Mode: 0o777, UID: 56, GID: Unchanged},
		OKPort:         muxer.OKGuest,
		WaitForGuest:   90 * time.Second,
		MaxConnections: 7,
		MaxBuffered:    1 << 30,
		Poll:           50 * time.Microsecond,
		Trace:          filepath.Join(dir, "t"),
	}}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestConfigSwitches(t *testing.T) {
	inTempDir(t)
	for _, args := range [][]string{{"--packed=false"}, {}} {
		if got := mustLoadOne(t, append(args, "--socket", "s", "--uds-path", "u")...); got.Packed {
			t.Errorf("%q: packed", args)
		}
	}
}

func TestConfigCIDFromAFile(t *testing.T) {
	path := filepath.Join(inTempDir(t), "cid")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	line, err := ParseArgs([]string{"--socket", "s", "--uds-path", "u", "--guest-cid", path})
	if err != nil {
		t.Fatal(err)
	}
	write(" 42\n")
	old, err := line.Load(nil)
	if err != nil || old.VMs[0].GuestCID != (CIDSource{CID: 42, File: path}) {
		t.Fatalf("got %+v, error %v", old, err)
	}
	reload := func() (uint64, error) {
		d, err := line.Reload(old, func(string, Use) error { return nil })
		if err != nil {
			return 0, err
		}
		return d.VMs[0].GuestCID.CID, nil
	}
	write("43")
	if cid, err := reload(); err != nil || cid != 43 {
		t.Errorf("reload: CID %d, error %v", cid, err)
	}
	for text, want := range map[string]string{"2\n": "reserved", "": "not a 32-bit number", strings.Repeat("9", 100): "not a 32-bit number"} {
		write(text)
		if cid, err := reload(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("reload of %q: CID %d, error %v; want %q", text, cid, err, want)
		}
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if cid, err := reload(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("reload of nothing: CID %d, error %v", cid, err)
	}
}

func TestConfigSizes(t *testing.T) {
	for text, want := range map[string]int64{
		"262144":        256 << 10,
		"256KiB":        256 << 10,
		"1MiB":          1 << 20,
		"3GiB":          3 << 30,
		"8589934591GiB": 8589934591 << 30,
	} {
		if got, err := parseBuffered(text); err != nil || got != want {
			t.Errorf("parseBuffered(%q) = %d, %v; want %d", text, got, err, want)
		}
	}
}

func TestConfigOwnersByName(t *testing.T) {
	uid, gid, err := parseOwner("root:root")
	if err != nil || uid != 0 || gid != 0 {
		t.Errorf("parseOwner(root:root) = %d, %d, %v", uid, gid, err)
	}
}

func TestConfigSameValueTwiceIsFine(t *testing.T) {
	inTempDir(t)
	if got := mustLoadOne(t, "--socket", "s", "--socket-path", "s", "--uds-path", "u"); got.Socket != "s" {
		t.Errorf("socket = %q", got.Socket)
	}
}

// usageErrors are command lines with the flag and the value at fault.
var usageErrors = []struct {
	name        string
	args        []string // behind good --socket and --uds-path
	flag, value string
}{
	{"cid zero", []string{"--guest-cid", "0"}, "--guest-cid", "0"},
	{"cid of the hypervisor", []string{"--guest-cid", "1"}, "--guest-cid", "1"},
	{"cid of the host", []string{"--guest-cid", "2"}, "--guest-cid", "2"},
	{"cid any", []string{"--guest-cid", "4294967295"}, "--guest-cid", "4294967295"},
	{"cid of 33 bits", []string{"--guest-cid", "4294967299"}, "--guest-cid", "4294967299"},
	{"cid of 64 bits", []string{"--guest-cid", "18446744073709551615"}, "--guest-cid", "18446744073709551615"},
	{"cid negative", []string{"--guest-cid", "-3"}, "--guest-cid", "-3"},
	{"cid text", []string{"--guest-cid", "three"}, "--guest-cid", "three"},
	{"cid hexadecimal", []string{"--guest-cid", "0x3"}, "--guest-cid", "0x3"},
	{"cid empty", []string{"--guest-cid", ""}, "--guest-cid", `""`},
	{"cid of a missing file", []string{"--guest-cid", "/nonexistent/cid"}, "--guest-cid", "/nonexistent/cid"},
	{"cid of a file without one", []string{"--guest-cid", "/dev/null"}, "--guest-cid", "/dev/null"},
	{"packed maybe", []string{"--packed=maybe"}, "--packed", "maybe"},
	{"no connections", []string{"--max-connections", "0"}, "--max-connections", "0"},
	{"negative connections", []string{"--max-connections", "-1"}, "--max-connections", "-1"},
	{"too many connections", []string{"--max-connections", "2147483648"}, "--max-connections", "2147483648"},
	{"connections text", []string{"--max-connections", "many"}, "--max-connections", "many"},
	{"nothing buffered", []string{"--max-buffered", "0"}, "--max-buffered", "0"},
	{"less than a window buffered", []string{"--max-buffered", "255KiB"}, "--max-buffered", "255KiB"},
	{"negative buffer", []string{"--max-buffered", "-1MiB"}, "--max-buffered", "-1MiB"},
	{"decimal unit", []string{"--max-buffered", "256MB"}, "--max-buffered", "256MB"},
	{"unit alone", []string{"--max-buffered", "MiB"}, "--max-buffered", "MiB"},
	{"space before the unit", []string{"--max-buffered", "1 MiB"}, "--max-buffered", "1 MiB"},
	{"more than 63 bits buffered", []string{"--max-buffered", "8589934592GiB"}, "--max-buffered", "8589934592GiB"},
	{"polls for long", []string{"--poll-us", "1001"}, "--poll-us", "1001"},
	{"polls with a unit", []string{"--poll-us", "50us"}, "--poll-us", "50us"},
	{"waits for no unit", []string{"--wait-for-guest", "30"}, "--wait-for-guest", "30"},
	{"waits for less than nothing", []string{"--wait-for-guest", "-1s"}, "--wait-for-guest", "-1s"},
	{"waits for too long", []string{"--wait-for-guest", "1h1ms"}, "--wait-for-guest", "1h1ms"},
	{"ok-port", []string{"--ok-port", "long"}, "--ok-port", "long"},
	{"mode decimal", []string{"--uds-mode", "0689"}, "--uds-mode", "0689"},
	{"mode with set-user-id", []string{"--socket-mode", "4755"}, "--socket-mode", "4755"},
	{"mode symbolic", []string{"--uds-mode", "u+rw"}, "--uds-mode", "u+rw"},
	{"unknown user", []string{"--uds-owner", "no-such-user"}, "--uds-owner", "no-such-user"},
	{"unknown group", []string{"--socket-owner", "0:no-such-group"}, "--socket-owner", "no-such-group"},
	{"group alone", []string{"--uds-owner", ":0"}, "--uds-owner", ":0"},
	{"user number that means unchanged", []string{"--uds-owner", "4294967295"}, "--uds-owner", "4294967295"},
	{"log level", []string{"--log-level", "loud"}, "--log-level", "loud"},
	{"sandbox", []string{"--sandbox", "yes"}, "--sandbox", "yes"},
	{"log format", []string{"--log-format", "xml"}, "--log-format", "xml"},
	{"address without port", []string{"--metrics-addr", "127.0.0.1"}, "--metrics-addr", "127.0.0.1"},
	{"address with a long port", []string{"--metrics-addr", "127.0.0.1:65536"}, "--metrics-addr", "65536"},
	{"address with a named port", []string{"--metrics-addr", "localhost:http"}, "--metrics-addr", "http"},
	{"address of IPv6 bare", []string{"--metrics-addr", "::1:9101"}, "--metrics-addr", "::1:9101"},
	{"metrics address empty", []string{"--metrics-addr", ""}, "--metrics-addr", `""`},
	{"profiles without an address", []string{"--pprof"}, "--pprof", "--metrics-addr"},
	{"profiles that are no switch", []string{"--pprof=yes", "--metrics-addr", "127.0.0.1:0"}, "--pprof", "yes"},
	{"two sockets", []string{"--socket-path", "other"}, "--socket-path", "other"},
	{"two CIDs", []string{"--guest-cid", "4", "--guest-cid", "5"}, "--guest-cid", "5"},
	{"unknown flag", []string{"--guest-sid", "4"}, "--guest-sid", ""},
	{"flag without value", []string{"--guest-cid"}, "--guest-cid", ""},
	{"switch with a strange value", []string{"--version=maybe"}, "--version", "maybe"},
	{"argument", []string{"start"}, "", "start"},
	{"fd text", []string{"--fd", "stdin"}, "--fd", "stdin"},
	{"fd negative", []string{"--fd", "-1"}, "--fd", "-1"},
	{"fd of stderr", []string{"--fd", "2"}, "--fd", "2"},
	{"fd beside socket", []string{"--fd", "0"}, "--socket", "s.sock"},
}

func TestConfigUsageErrors(t *testing.T) {
	for _, tt := range usageErrors {
		t.Run(tt.name, func(t *testing.T) {
			inTempDir(t)
			args := append([]string{"--socket", "s.sock", "--uds-path", "u.sock"}, tt.args...)
			checkUsageError(t, args, tt.flag, tt.value)
		})
	}
}

// checkUsageError loads a command line in the working directory, which is empty.
func checkUsageError(t *testing.T, args []string, flag, value string) {
	t.Helper()
	_, err := load(args...)
	if err == nil {
		t.Fatal("accepted")
	}
	if text := err.Error(); !strings.Contains(text, flag) || !strings.Contains(text, value) {
		t.Errorf("error %q does not name %s and %s", text, flag, value)
	}
	if made, err := os.ReadDir("."); err != nil || len(made) > 0 {
		t.Errorf("left behind: %v (error %v)", made, err)
	}
}

func TestConfigPathErrors(t *testing.T) {
	long := strings.Repeat("p", 200)
	limit := 107 - len("_4294967295") // sun_path less NUL and the longest port
	for _, tt := range []struct {
		name        string
		args        []string
		flag, value string
	}{
		{"nothing given", nil, "--uds-path", ""},
		{"no socket", []string{"--uds-path", "u"}, "--socket", ""},
		{"no uds-path", []string{"--socket", "s"}, "--uds-path", ""},
		{"empty socket", []string{"--socket", "", "--uds-path", "u"}, "--socket", `""`},
		{"empty uds-path", []string{"--socket", "s", "--uds-path", ""}, "--uds-path", `""`},
		{"long socket", []string{"--socket", long, "--uds-path", "u"}, "--socket", long},
		{"uds-path without room for a port", []string{"--socket", "s", "--uds-path", long[:limit+1]}, "--uds-path", long[:limit+1]},
		{"directory", []string{"--socket", "s", "--uds-path", "/tmp/"}, "--uds-path", "/tmp/"},
		{"directory missing", []string{"--socket", "s", "--uds-path", "gone/u"}, "--uds-path", "gone/u"},
		{"directory is none", []string{"--socket", "/dev/null/s", "--uds-path", "u"}, "--socket", "/dev/null/s"},
		{"same path", []string{"--socket", "u", "--uds-path", "u"}, "--socket", "u"},
		{"same path by another way", []string{"--socket", "../" + "." + "/u", "--uds-path", "../u"}, "--socket", "u"},
		{"socket where a port goes", []string{"--socket", "u_22", "--uds-path", "u"}, "--socket", "u_22"},
		{"socket where a port goes, by another way", []string{"--socket", "/proc/self/cwd/u_22", "--uds-path", "u"}, "--socket", "u_22"},
		{"socket where packets go", []string{"--socket", "u_seqpacket", "--uds-path", "u"}, "--socket", "u_seqpacket"},
		{"closed fd", []string{"--fd", "900", "--uds-path", "u"}, "--fd", "900"},
		{"fd with mode", []string{"--fd", "900", "--uds-path", "u", "--socket-mode", "0600"}, "--socket-mode", "0600"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inTempDir(t)
			checkUsageError(t, tt.args, tt.flag, tt.value)
		})
	}
}

func TestConfigLongestPath(t *testing.T) {
	inTempDir(t)
	path := strings.Repeat("p", 107-len("_4294967295"))
	if got := mustLoadOne(t, "--socket", "s", "--uds-path", path); got.UDSPath != path {
		t.Errorf("uds-path = %q", got.UDSPath)
	}
}

func TestConfigInheritedSockets(t *testing.T) {
	dir := inTempDir(t)
	listen := func(kind int, path string) int {
		fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
			t.Fatal(err)
		}
		if err := unix.Listen(fd, 1); err != nil {
			t.Fatal(err)
		}
		return fd
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	loose, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, fd := range []int{pair[0], pair[1], loose} {
			unix.Close(fd)
		}
	})
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	file, err := tcp.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()

	path := filepath.Join(dir, "control")
	for _, tt := range []struct {
		name     string
		fd       int
		frontend Frontend
		socket   string
		err      string
	}{
		{name: "listening", fd: listen(unix.SOCK_STREAM, path), frontend: ListeningFD, socket: path},
		{name: "connected", fd: pair[0], frontend: ConnectedFD},
		{name: "neither", fd: loose, err: "neither listens nor is connected"},
		{name: "packets", fd: listen(unix.SOCK_SEQPACKET, "packets"), err: "not an AF_UNIX stream socket"},
		{name: "TCP", fd: int(file.Fd()), err: "not an AF_UNIX stream socket"},
		{name: "named like a guest's host program", fd: listen(unix.SOCK_STREAM, filepath.Join(dir, "u_1")), err: "u_1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := load("--fd", strconv.Itoa(tt.fd), "--uds-path", "u")
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) || !strings.Contains(err.Error(), "--fd") {
					t.Fatalf("error %v, want one about --fd with %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := d.VMs[0]
			if got.Frontend != tt.frontend || got.Socket != tt.socket || got.FD != tt.fd {
				t.Fatalf("got frontend %d, socket %q, fd %d", got.Frontend, got.Socket, got.FD)
			}
			if flags, err := unix.FcntlInt(uintptr(tt.fd), unix.F_GETFL, 0); err != nil || flags&unix.O_NONBLOCK == 0 {
				t.Errorf("flags %#x, error %v: want O_NONBLOCK", flags, err)
			}
		})
	}
}
