package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vhost-user-vsock/vhost-user-vsock/config"
	"github.com/vhost-user-vsock/vhost-user-vsock/ctl"
)

// written returns what write makes, by the end of the name.
func written(t *testing.T) (dir string, files map[string]string) {
	t.Helper()
	dir, files = t.TempDir(), make(map[string]string)
	if err := write("v1.2.3", dir); err != nil {
		t.Fatal(err)
	}
	for _, end := range []string{"8", "bash", "zsh", "fish"} {
		text, err := os.ReadFile(filepath.Join(dir, config.Program+"."+end))
		if err != nil {
			t.Fatal(err)
		}
		files[end] = string(text)
	}
	return dir, files
}

func TestEveryFlagIsThere(t *testing.T) {
	_, files := written(t)
	seen := 0
	words := strings.FieldsFunc(files["bash"], func(r rune) bool { return strings.ContainsRune(" '\n", r) })
	eachName(config.FlagGroups(), func(name string, f config.Flag) {
		seen++
		for end, want := range map[string]string{
			"8":    `\fB` + roff("--"+name) + `\fR`,
			"zsh":  "'*--" + name + "[",
			"fish": " -l " + name + " -d '",
		} {
			if !strings.Contains(files[end], want) {
				t.Errorf("%s: --%s is missing", end, name)
			}
		}
		if !slices.Contains(words, "--"+name) {
			t.Errorf("bash: --%s is missing", name)
		}
		if !strings.Contains(files["8"], roff(f.Help)) {
			t.Errorf("the manual does not explain --%s", name)
		}
	})
	if seen < 20 {
		t.Errorf("%d flags", seen)
	}
}

func TestEveryCommandIsThere(t *testing.T) {
	_, files := written(t)
	client := strings.Index(files["8"], ".SH CONTROL")
	for _, c := range ctl.Commands() {
		for end, want := range map[string]string{
			"8": `\fB` + roff(c.Name) + `\fR`, "zsh": c.Name, "fish": " -a " + c.Name + " -d '", "bash": "\t\t" + c.Name + ") ",
		} {
			if !strings.Contains(files[end], want) {
				t.Errorf("%s: %s is missing", end, c.Name)
			}
		}
		if !strings.Contains(files["8"][client:], roff(c.Help)) {
			t.Errorf("the manual does not explain %s", c.Name)
		}
	}
	for _, f := range ctl.Flags() {
		if !strings.Contains(files["8"][client:], `\fB`+roff("--"+f.Name)+`\fR`) || !strings.Contains(files["8"][client:], roff(f.Help)) {
			t.Errorf("the manual does not explain --%s of ctl", f.Name)
		}
	}
}

// Of what a reader copies, a plain dash would be a hyphen.
func TestManualHasNoHyphens(t *testing.T) {
	_, files := written(t)
	for line := range strings.Lines(files["8"]) {
		if strings.Count(line, "-") != strings.Count(line, `\-`) {
			t.Errorf("a plain dash: %s", line)
		}
	}
}

// man formats the page, with the warnings of its macros.
func TestManualHasNoWarnings(t *testing.T) {
	if _, err := exec.LookPath("man"); err != nil {
		t.Skip("man is not here")
	}
	dir, _ := written(t)
	cmd := exec.Command("man", "--warnings", "--local-file", filepath.Join(dir, config.Program+".8"))
	cmd.Env = append(os.Environ(), "MANROFFOPT=-ww", "MANWIDTH=80", "LC_ALL=C.UTF-8", "MAN_KEEP_FORMATTING=", "PAGER=cat")
	var warnings strings.Builder
	cmd.Stderr = &warnings
	page, err := cmd.Output()
	if err != nil || warnings.Len() > 0 {
		t.Fatalf("man: %v\n%s", err, &warnings)
	}
	for _, want := range []string{"--guest-cid CID|FILE", "v1.2.3", "drain VM", "EXIT STATUS"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("%q is not in the page:\n%s", want, page)
		}
	}
}

func TestBashCompletes(t *testing.T) {
	dir, files := written(t)
	for _, tt := range []struct {
		words []string // the last is to be completed
		want  []string
	}{
		{[]string{"--log-l"}, []string{"--log-level"}},
		{[]string{"--socket-"}, []string{"--socket-path", "--socket-mode", "--socket-owner"}},
		{[]string{"--help", "--sandbox", ""}, []string{"on", "off", "require"}},
		{[]string{"--packed", "--ok"}, []string{"--ok-port"}},
		{[]string{"--name", ""}, nil},
		{[]string{"--config", dir + "/"}, []string{
			dir + "/" + config.Program + ".8", dir + "/" + config.Program + ".bash",
			dir + "/" + config.Program + ".fish", dir + "/" + config.Program + ".zsh",
		}},
		{[]string{"--runtime-dir", dir + "/"}, nil}, // there are only files
		{[]string{"c"}, []string{"ctl"}},
		{[]string{"--packed", "c"}, nil}, // ctl stands first
		{[]string{"ctl", "d"}, []string{"drain"}},
		{[]string{"ctl", "--json", "--control", "vm.sock", "re"}, []string{"remove"}},
		{[]string{"ctl", "--so"}, nil},
		{[]string{"ctl", "drain", ""}, []string{"--control", "--json", "--timeout", "--help"}},
		{[]string{"ctl", "drain", "web", "--t"}, []string{"--timeout"}},
		{[]string{"ctl", "top", "--j"}, nil},
		{[]string{"ctl", "log-level", "e"}, []string{"error"}},
		{[]string{"ctl", "vms", "--control", dir + "/" + config.Program + ".z"}, []string{dir + "/" + config.Program + ".zsh"}},
	} {
		script := files["bash"] + `
COMP_WORDS=(vhost-user-vsock "$@") COMP_CWORD=$#
_vhost_user_vsock
[ ${#COMPREPLY[@]} = 0 ] || printf '%s\n' "${COMPREPLY[@]}"`
		out, err := exec.Command("bash", append([]string{"--norc", "-c", script, "bash"}, tt.words...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v\n%s", tt.words, err, out)
		}
		got := strings.Fields(string(out))
		slices.Sort(got)
		slices.Sort(tt.want)
		if !slices.Equal(got, tt.want) {
			t.Errorf("%q: %q, want %q", tt.words, got, tt.want)
		}
	}
}

// zsh and fish are no part of the tests' machine; where they are, they check.
func TestOtherShellsUnderstand(t *testing.T) {
	dir, _ := written(t)
	for _, shell := range []string{"zsh", "fish"} {
		if _, err := exec.LookPath(shell); err != nil {
			t.Logf("%s is not here", shell)
			continue
		}
		if out, err := exec.Command(shell, "-n", filepath.Join(dir, config.Program+"."+shell)).CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", shell, err, out)
		}
	}
}
