package tests

import (
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

// mustDescribe wants the descriptor for VMMs to be of VHostUserBackend in QEMU's
// docs/interop/vhost-user.json, and to say what the program says of itself.
func (in installation) mustDescribe(program string) {
	in.t.Helper()
	text, err := os.ReadFile(in.path("usr/share/qemu/vhost-user/50-vhost-user-vsock.json"))
	if err != nil {
		in.t.Fatal(err)
	}
	var described map[string]string
	if err := json.Unmarshal(text, &described); err != nil {
		in.t.Fatal(err)
	}
	var capable struct{ Type string }
	if err := json.Unmarshal([]byte(runIn(in.t, ".", program, "--print-capabilities")), &capable); err != nil {
		in.t.Fatal(err)
	}
	if described["type"] != capable.Type || in.path(described["binary"]) != program || described["description"] == "" || len(described) != 3 {
		in.t.Errorf("%s; the program says %q", text, capable.Type)
	}
}

// mustHaveUnits wants systemd to understand the units, and the service to run the
// program that is there.
func (in installation) mustHaveUnits() {
	in.t.Helper()
	const name = "usr/lib/systemd/system/vhost-user-vsock@"
	service, err := os.ReadFile(in.path(name + ".service"))
	if err != nil {
		in.t.Fatal(err)
	}
	start := regexp.MustCompile(`(?m)^ExecStart=(\S+) --config (\S+)$`).FindSubmatch(service)
	if start == nil || string(start[2]) != "/etc/vhost-user-vsock/%i.yaml" {
		in.t.Fatalf("ExecStart: %q", start)
	}
	if info, err := os.Stat(in.path(string(start[1]))); err != nil || info.Mode()&0o111 == 0 {
		in.t.Errorf("%s: %v", start[1], err)
	}
	if info, err := os.Stat(in.path("etc/vhost-user-vsock")); err != nil || !info.IsDir() {
		in.t.Errorf("the directory of configuration files: %v", err)
	}
	// systemd looks at programs and manuals of the machine, not of a directory.
	installed := strings.NewReplacer(string(start[1]), in.path(string(start[1])), "Documentation=", "#")
	verify := []string{"verify"}
	for _, kind := range []string{".service", ".socket"} {
		text, err := os.ReadFile(in.path(name + kind))
		if err != nil {
			in.t.Fatal(err)
		}
		unit := in.path("vhost-user-vsock@" + kind)
		if err := os.WriteFile(unit, []byte(installed.Replace(string(text))), 0o644); err != nil {
			in.t.Fatal(err)
		}
		defer os.Remove(unit)
		verify = append(verify, unit)
	}
	out, err := exec.Command("systemd-analyze", verify...).CombinedOutput()
	if err != nil || len(out) > 0 {
		in.t.Errorf("systemd-analyze: %v\n%s", err, out)
	}
}

// needrestart reads its configuration as Perl does.
func TestNeedrestartLeavesInstances(t *testing.T) {
	if _, err := exec.LookPath("perl"); err != nil {
		t.Skip("perl is not here")
	}
	const look = `use strict;
our %nrconf = (override_rc => {});
eval do { local(@ARGV, $/) = "packaging/needrestart.conf"; <> };
die $@ if $@;
while (my ($re, $restart) = each %{$nrconf{override_rc}}) {
	print "$restart\n" if "vhost-user-vsock\@main.service" =~ /$re/;
}`
	if out := runIn(t, "..", "perl", "-e", look); out != "0\n" {
		t.Errorf("%q", out)
	}
}

func TestDebianVersions(t *testing.T) {
	// From the oldest to the newest.
	versions := []struct{ described, want string }{
		{"", "0~20231114221320"},
		{"0123456789ab", "0~20231114221320.g0123456789ab"},
		{"v1.2-rc1", "1.2~rc1"},
		{"v1.2-rc1-7-g0123456789ab", "1.2~rc1+7.g0123456789ab"},
		{"v1.2", "1.2"},
		{"v1.2-9-g0123456789ab", "1.2+9.g0123456789ab"},
		{"v1.2-10-g0123456789ab", "1.2+10.g0123456789ab"},
		{"v1.2.1", "1.2.1"},
		{"v1.2.1-dirty", "1.2.1+dirty"},
	}
	for i, tt := range versions {
		got := strings.TrimSpace(runIn(t, "..", "packaging/debian-version", tt.described, "1700000000"))
		if got != tt.want {
			t.Errorf("%q: %s, want %s", tt.described, got, tt.want)
		}
		if i > 0 {
			runIn(t, ".", "dpkg", "--compare-versions", versions[i-1].want, "lt", got)
		}
	}
}
