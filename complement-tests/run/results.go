package main

import (
	"fmt"
	"os"
	"regexp"
	"sort"
	"strings"
)

const (
	pass = "pass"
	fail = "fail"
	skip = "skip"
	// root is the short name of the package `tests` itself.
	root = "fed"
)

// results says of each leaf (a test without subtests), as "package name", how it ended.
type results struct {
	of      map[string]string
	parents map[string]bool
	why     map[string]string
}

func newResults() *results {
	return &results{of: map[string]string{}, parents: map[string]bool{}, why: map[string]string{}}
}

// short is the package's name below `tests`.
func short(importPath string) string {
	below := strings.TrimPrefix(strings.TrimPrefix(importPath, module+"/tests"), "/")
	if below == "" {
		return root
	}
	return below
}

// split returns the package and the top-level test of a leaf.
func split(name string) (string, string) {
	pkg, test, _ := strings.Cut(name, " ")
	top, _, _ := strings.Cut(test, "/")
	return pkg, top
}

func (r *results) add(pkg, test, action string) {
	name := pkg + " " + test
	switch action {
	case "run":
		// One that never ends (a crash, a timeout) has failed.
		r.of[name] = fail
		for i := strings.LastIndex(test, "/"); i > 0; i = strings.LastIndex(test[:i], "/") {
			r.parents[pkg+" "+test[:i]] = true
		}
	case pass, fail, skip:
		r.of[name] = action
	}
}

// said is a line that a test wrote by t.Log or t.Error; chatter is what it writes in any case.
var (
	said    = regexp.MustCompile(`^\s*\w+\.go:\d+: `)
	chatter = regexp.MustCompile(`\[CSAPI\]|\[SSAPI\]|Deploy times|procdeploy: log of|WARNING: |waiting for event ID`)
)

// Complement writes errors in red.
const red, plain = "\x1b[31m", "\x1b[39m"

// note remembers in which line a test says what is wrong: the first red one, or else the last.
func (r *results) note(pkg, test, output string) {
	name := pkg + " " + test
	if !said.MatchString(output) || chatter.MatchString(output) || strings.Contains(r.why[name], red) {
		return
	}
	r.why[name] = strings.TrimSpace(output)
}

// reasons are the failing leaves, each with what it said.
func (r *results) reasons() string {
	var text strings.Builder
	for _, name := range r.with(fail) {
		why := strings.NewReplacer(red, "", plain, "").Replace(r.why[name])
		fmt.Fprintf(&text, "%s\n    %s\n", name, why)
	}
	return text.String()
}

func (r *results) with(outcome string) []string {
	var names []string
	for name, how := range r.of {
		if how == outcome && !r.parents[name] {
			names = append(names, name)
		}
	}
	sort.Strings(names)
	return names
}

func (r *results) passes() []string { return r.with(pass) }

func (r *results) count(pkg string) (passed, ran int) {
	for name, how := range r.of {
		if p, _ := split(name); p == pkg && !r.parents[name] {
			ran++
			if how == pass {
				passed++
			}
		}
	}
	return passed, ran
}

// failing are the names of the baseline that belong to a test that ran, and did not pass.
func (r *results) failing(baseline []string) []string {
	ran := map[string]bool{}
	for name := range r.of {
		pkg, top := split(name)
		ran[pkg+" "+top] = true
	}
	var failing []string
	for _, name := range baseline {
		if pkg, top := split(name); ran[pkg+" "+top] && r.of[name] != pass {
			failing = append(failing, name)
		}
	}
	return failing
}

// fresh are the passes that are not in the baseline.
func (r *results) fresh(baseline []string) []string {
	known := map[string]bool{}
	for _, name := range baseline {
		known[name] = true
	}
	var fresh []string
	for _, name := range r.passes() {
		if !known[name] {
			fresh = append(fresh, name)
		}
	}
	return fresh
}

// merge takes over the outcomes of a second run.
func (r *results) merge(second *results) {
	for name, how := range second.of {
		r.of[name] = how
	}
	for name := range second.parents {
		r.parents[name] = true
	}
}

// update writes what passed; of tests that did not run, the baseline stays.
func (r *results) update(file string, baseline []string) error {
	keep := map[string]bool{}
	for _, name := range r.passes() {
		keep[name] = true
	}
	failing := map[string]bool{}
	for _, name := range r.failing(baseline) {
		failing[name] = true
	}
	for _, name := range baseline {
		if !failing[name] {
			keep[name] = true
		}
	}
	names := keys(keep)
	return os.WriteFile(file, []byte(strings.Join(names, "\n")+"\n"), 0o644)
}

func readBaseline(file string) ([]string, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return strings.FieldsFunc(string(text), func(r rune) bool { return r == '\n' }), nil
}

func keys(set map[string]bool) []string {
	names := make([]string, 0, len(set))
	for name := range set {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}
