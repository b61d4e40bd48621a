package config

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

func TestVMFlags(t *testing.T) {
	inTempDir(t)
	got := mustLoad(t, "--max-connections", "9", "--packed",
		"--vm", "name=web,socket=s1,uds-path=u1,packed=false",
		"--vm", "guest-cid=4,socket-path=odd,,name,uds-path=u2,inband-notifications,max-connections=5").VMs
	if len(got) != 2 {
		t.Fatalf("%d VMs", len(got))
	}
	web, other := got[0], got[1]
	if web.Name != "web" || web.GuestCID.CID != 3 || web.Socket != "s1" || web.Packed || web.InBand || web.MaxConnections != 9 {
		t.Errorf("web: %+v", web)
	}
	if other.Name != "cid4" || other.GuestCID.CID != 4 || other.Socket != "odd,name" || !other.Packed || !other.InBand || other.MaxConnections != 5 {
		t.Errorf("the other one: %+v", other)
	}
}

func TestVMFlagErrors(t *testing.T) {
	const web = "name=web,socket=s1,uds-path=u1"
	for _, tt := range []struct {
		name        string
		args        []string
		flag, value string
	}{
		{"no path of programs", []string{"--vm", "socket=s"}, `--vm "socket=s": uds-path`, "missing"},
		{"no socket", []string{"--vm", "uds-path=u"}, `--vm "uds-path=u": socket`, "or fd"},
		{"bad value", []string{"--vm", web + ",guest-cid=2"}, "guest-cid=2\": guest-cid \"2\"", "reserved"},
		{"bad default", []string{"--vm", web, "--max-connections", "0"}, "--max-connections \"0\"", "count"},
		{"unknown key", []string{"--vm", web + ",soket=x"}, "--vm", "soket"},
		{"key of the program", []string{"--vm", web + ",log-level=debug"}, "--vm", "--log-level"},
		{"key twice", []string{"--vm", web + ",socket-path=x"}, "--vm", `"s1"`},
		{"no value", []string{"--vm", web + ",guest-cid"}, "--vm", "guest-cid=CID|FILE"},
		{"no key", []string{"--vm", web + ",=x"}, "--vm", "without a key"},
		{"comma at the end", []string{"--vm", web + ","}, "--vm", "without a key"},
		{"nothing", []string{"--vm", ""}, "--vm", "without a key"},
		{"default that only one can have", []string{"--vm", web, "--guest-cid", "4"}, "--guest-cid \"4\"", "only one VM"},
		{"names by CID", []string{"--vm", "socket=s1,uds-path=u1", "--vm", "socket=s2,uds-path=u2"}, `u2": name "cid3"`, "a name of its own"},
		{"names", []string{"--vm", web, "--vm", "name=web,socket=s2,uds-path=u2"}, `u2": name "web"`, "a name of its own"},
		{"sockets", []string{"--vm", web, "--vm", "name=b,socket=s1,uds-path=u2"}, `u2": socket "s1"`, "the same"},
		{"paths of programs", []string{"--vm", web, "--vm", "name=b,socket=s2,uds-path=/proc/self/cwd/u1"}, `uds-path "`, "conflict"},
		{"a socket at a port of another's guest", []string{"--vm", web, "--vm", "name=b,socket=u1_5,uds-path=u2"}, `socket "u1_5"`, "conflict"},
		{"a guest's port at a socket of another", []string{"--vm", "name=b,socket=u1_5,uds-path=u2", "--vm", web}, `uds-path "u1"`, "conflict"},
		{"a bad name", []string{"--vm", "name=../x,socket=s1,uds-path=u1"}, `name "../x"`, "letters"},
		{"an empty name", []string{"--vm", "name=,socket=s1,uds-path=u1"}, `name ""`, "letters"},
		{"descriptor and mode", []string{"--vm", "fd=0,socket-mode=0600,uds-path=u1"}, `socket-mode "0600"`, "excludes fd"},
		{"closed descriptor", []string{"--vm", "fd=900,uds-path=u1"}, "fd 900", "not open"},
		{"a file, too", []string{"--vm", web, "--config", "f"}, "--vm", "--config"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inTempDir(t)
			checkUsageError(t, tt.args, tt.flag, tt.value)
		})
	}
}

func TestSplitEntries(t *testing.T) {
	for text, want := range map[string]string{
		"":          "",
		"a":         "a",
		"a,b":       "a|b",
		"a,,b":      "a,b",
		"a,,,b":     "a,|b",
		"a,,,,b":    "a,,b",
		"a,":        "a|",
		",":         "|",
		",,":        ",",
		"a=1,,2,b=": "a=1,2|b=",
	} {
		if got := splitEntries(text); !slices.Equal(got, strings.Split(want, "|")) {
			t.Errorf("splitEntries(%q) = %q, want %q", text, got, want)
		}
	}
}

func TestVMOptions(t *testing.T) {
	dir := inTempDir(t)
	got, err := VMOptions("name=web,socket-path=odd,,name,uds-path=/u,guest-cid=/cid,trace-packets=t,packed")
	want := map[string]string{
		"name": "web", "socket": dir + "/odd,name", "uds-path": "/u", "guest-cid": "/cid", "trace-packets": dir + "/t", "packed": "true",
	}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("options %q, error %v", got, err)
	}
	if got, err := VMOptions("name=web,soket=x"); err == nil || !strings.Contains(err.Error(), "soket") {
		t.Errorf("options %q, error %v", got, err)
	}
}
