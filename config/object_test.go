package config

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// anywhere grants all directories.
func anywhere(string, Use) error { return nil }

func TestObjectIsAVM(t *testing.T) {
	inTempDir(t)
	object := `{"name": "web", "guest-cid": 7, "socket": "s, with a comma", "uds-path": "\u0075", "packed": false, "max-connections": "12", "uds-mode": "0640"}`
	v, err := Defaults(nil).ParseVM([]byte(object), anywhere, nil)
	if err != nil {
		t.Fatal(err)
	}
	want := mustLoadOne(t, "--name", "web", "--guest-cid", "7", "--socket", "s, with a comma", "--uds-path", "u", "--max-connections", "12", "--uds-mode", "0640")
	if v != want {
		t.Errorf("%+v, want %+v", v, want)
	}
}

// A VM that is added later has the defaults of those that were there first.
func TestObjectHasTheDefaults(t *testing.T) {
	inTempDir(t)
	fromFile, err := loadFile(t, twoVMs)
	if err != nil {
		t.Fatal(err)
	}
	for name, d := range map[string]Daemon{
		"file":  fromFile,
		"flags": mustLoad(t, "--packed", "--uds-mode", "0660", "--control", "c"),
		"--vm":  mustLoad(t, "--packed", "--uds-mode", "0660", "--vm", "socket=s,uds-path=u"),
	} {
		v, err := d.Defaults.ParseVM([]byte(`{"socket":"s3","uds-path":"u3"}`), anywhere, nil)
		if err != nil || !v.Packed || v.UDSAccess.Mode != 0o660 || v.Name != "cid3" || v.Named || v.FD != NoFD {
			t.Errorf("%s: %+v, error %v", name, v, err)
		}
		if v, err = d.Defaults.ParseVM([]byte(`{"socket":"s3","uds-path":"u3","packed":false}`), anywhere, nil); err != nil || v.Packed {
			t.Errorf("%s: %+v, error %v", name, v, err)
		}
	}
	// What stands beside the options of a single VM is that VM's.
	one := mustLoad(t, "--packed", "--socket", "s", "--uds-path", "u", "--control", "c")
	if v, err := one.Defaults.ParseVM([]byte(`{"socket":"s3","uds-path":"u3"}`), anywhere, nil); err != nil || v.Packed {
		t.Errorf("beside a single VM: %+v, error %v", v, err)
	}
}

func TestObjectErrors(t *testing.T) {
	inTempDir(t)
	nowhere := func(dir string, _ Use) error { return errors.New("no access to " + dir) }
	for object, want := range map[string]string{
		`[]`:                               "not keys with values; give a JSON object",
		`null`:                             "not keys with values",
		`7`:                                "not keys with values",
		`{"socket":"s"}`:                   "VM: uds-path: missing; give the path where host programs connect",
		`{"uds-path":"u"}`:                 "VM: socket: missing; give the path where the frontend connects",
		`{"cid":3}`:                        "cid: no such key",
		`{"log-level":"debug"}`:            "log-level: an option of the program",
		`{"fd":3}`:                         "fd: only on the command line",
		`{"packed":null}`:                  "packed: not a single value",
		`{"packed":[true]}`:                "packed: not a single value",
		`{"packed":{}}`:                    "packed: not a single value",
		`{"packed":1,"packed":1}`:          "packed: given twice",
		`{"packed":"perhaps"}`:             `packed "perhaps": not a switch`,
		`{"guest-cid":2}`:                  `guest-cid "2": reserved; give a number from 3`,
		`{"guest-cid":3e0}`:                `guest-cid "3e0": not a 32-bit number`,
		`{"uds-path":"no/dir/u"}`:          `uds-path "no/dir/u": its directory cannot be used`,
		`{"socket":"s","socket-path":"t"}`: "socket-path: given twice",
		`{"socket":"s","uds-path":"u"}`:    `uds-path "u": no access to .`,
	} {
		if v, err := Defaults(nil).ParseVM([]byte(object), nowhere, nil); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s: %+v, error %v; want %s", object, v, err, want)
		}
	}
}

// With a control socket there may be no VM yet, and that socket is in nobody's way.
func TestControlSocket(t *testing.T) {
	inTempDir(t)
	for _, args := range [][]string{{"--control", "c"}, {"--control", "c", "--packed", "--metrics-addr", "127.0.0.1:0"}} {
		if d := mustLoad(t, args...); d.Control != "c" || len(d.VMs) != 0 {
			t.Errorf("%q: %+v", args, d)
		}
	}
	for _, args := range [][]string{{}, {"--packed"}, {"--control", "c", "--guest-cid", "4"}} {
		if _, err := load(args...); err == nil || !strings.HasPrefix(err.Error(), "--uds-path: missing") {
			t.Errorf("%q: error %v", args, err)
		}
	}
	for args, want := range map[string]string{
		"--control u --socket s --uds-path u":            "conflict of socket paths",
		"--control s --socket s --uds-path u":            "conflict of socket paths",
		"--control u_22 --socket s --uds-path u":         "where the guest of u looks",
		"--control u_seqpacket --vm socket=s,uds-path=u": "where the guest of u looks",
		"--control no/dir/c":                             "its directory cannot be used",
	} {
		if _, err := load(strings.Fields(args)...); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v, want %s", args, err, want)
		}
	}
	if d, err := loadFile(t, "control: c\nvms: []\n"); err != nil || d.Control != "c" {
		t.Errorf("in the file: %+v, error %v", d, err)
	}
	d := mustLoad(t, "--control", "../c")
	paths := d.Paths()
	if !slices.Equal(paths.Sockets, []string{".."}) || !slices.Contains(paths.Files, "/etc/passwd") {
		t.Errorf("directories %+v", paths)
	}
}
