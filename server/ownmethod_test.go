package server

import (
	"context"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"
	"testing"
)

type base struct{ n int }

func (b *base) Promoted() int                      { return b.n }
func (b base) PromotedByValue() int                { return b.n }
func (b *base) Empty()                             {}
func (b *base) Panics() int                        { panic("always") }
func (b *base) Shadowed() int                      { return b.n }
func (b base) ShadowedByValue() int                { return b.n }
func (b base) OtherSignature() int                 { return b.n }
func (b *base) Long(s string) (out string)         { return strings.Repeat(s, b.n) + fmt.Sprint(b.n) }
func (b *base) ShadowedThroughContext(_ ctx) error { return nil }

type ctx = context.Context

func small() int { return 3 }

type byValue struct {
	pad int
	base
}

func (v *byValue) Own() int                             { return v.pad }
func (v byValue) OwnByValue() int                       { return v.pad }
func (v *byValue) Shadowed() int                        { return v.base.Shadowed() }
func (v byValue) ShadowedByValue() int                  { return small() }
func (v byValue) OtherSignature(int) int                { return v.pad }
func (v byValue) ShadowedThroughContext(c ctx) error    { return v.base.ShadowedThroughContext(c) }
func (v *byValue) unexported() int                      { return v.pad }
func (v *byValue) Long(s string) string                 { return v.base.Long(s) }
func (v *byValue) Deferred() (err error)                { defer func() { _ = recover() }(); return io.EOF }
func (v *byValue) Closure() func() int                  { return func() int { return v.unexported() } }
func (v *byValue) CallsPromoted() int                   { return v.Promoted() + v.PromotedByValue() }
func (v *byValue) UsesMethodValue() (f, g func() int)   { return v.Promoted, v.PromotedByValue }
func (v *byValue) DevirtualizedCall() int               { var p promoter = v; return p.Promoted() }
func (v *byValue) MethodExpression() func(*byValue) int { return (*byValue).Promoted }

type promoter interface{ Promoted() int }

type byPointer struct {
	*base
	pad int
}

func (v *byPointer) Own() int            { return v.pad }
func (v *byPointer) Shadowed() int       { return v.base.Shadowed() }
func (v byPointer) ShadowedByValue() int { return v.base.ShadowedByValue() }

type onlyField struct{ *base } // a pointer in all but name

func (v onlyField) Own() int      { return 1 }
func (v onlyField) Shadowed() int { return 1 }

type byInterface struct {
	promoter
	io.Closer
}

func (v *byInterface) Close() error { return nil }
func (v *byInterface) Own()         {}

type twoLevels struct{ byValue }

func (v *twoLevels) OwnByValue() int { return v.pad }

type threeLevels struct {
	*twoLevels
	fmt.Stringer
}

func (v threeLevels) Own() int { return 1 }

type ambiguous struct {
	base
	*other
}

type other struct{}

func (*other) Shadowed() int { return 0 }

func (a *ambiguous) Shadowed() int { return 1 }

type nothingOwn struct{ byValue }

type generic[T any] struct{ value T }

func (g *generic[T]) Promoted() T      { return g.value }
func (g generic[T]) Shadowed() T       { return g.value }
func (g *generic[T]) ShadowedToo() int { return 1 }

type genericOuter[T any] struct {
	generic[T]
	base
	more T
}

func (g *genericOuter[T]) Own() T           { return g.more }
func (g genericOuter[T]) OwnByValue() T     { return g.more }
func (g *genericOuter[T]) Shadowed() T      { var zero T; return zero }
func (g genericOuter[T]) ShadowedToo() int  { return small() }
func (g *genericOuter[T]) OtherSignature(T) {}

type instantiated struct{ genericOuter[string] }

func (i *instantiated) Own() string { return i.genericOuter.Own() }

type number float64

func (n number) Own() number   { return n }
func (n *number) OwnToo() bool { return n != nil }

func TestOwnMethodsAreThoseDeclaredOnTheType(t *testing.T) {
	t.Parallel()
	_, _ = ambiguous{}.other, (*other).Shadowed // used by reflection only, which linters don't see
	_, _ = genericOuter[int]{}.generic, (*generic[int]).Promoted
	_, _ = generic[int].Shadowed, (*generic[int]).ShadowedToo
	both := []string{"CallsPromoted", "Closure", "Deferred", "DevirtualizedCall", "Long", "MethodExpression",
		"OtherSignature", "Own", "OwnByValue", "Shadowed", "ShadowedByValue", "ShadowedThroughContext", "UsesMethodValue"}
	for _, tt := range []struct {
		pointer reflect.Type
		want    []string
	}{
		{reflect.TypeFor[*byValue](), both},
		{reflect.TypeFor[*byPointer](), []string{"Own", "Shadowed", "ShadowedByValue"}},
		{reflect.TypeFor[*onlyField](), []string{"Own", "Shadowed"}},
		{reflect.TypeFor[*byInterface](), []string{"Close", "Own"}},
		{reflect.TypeFor[*twoLevels](), []string{"OwnByValue"}},
		{reflect.TypeFor[*threeLevels](), []string{"Own"}},
		{reflect.TypeFor[*ambiguous](), []string{"Shadowed"}},
		{reflect.TypeFor[*nothingOwn](), nil},
		{reflect.TypeFor[*genericOuter[int]](), []string{"OtherSignature", "Own", "OwnByValue", "Shadowed", "ShadowedToo"}},
		{reflect.TypeFor[*genericOuter[base]](), []string{"OtherSignature", "Own", "OwnByValue", "Shadowed", "ShadowedToo"}},
		{reflect.TypeFor[*genericOuter[*base]](), []string{"OtherSignature", "Own", "OwnByValue", "Shadowed", "ShadowedToo"}},
		{reflect.TypeFor[*instantiated](), []string{"Own"}},
		{reflect.TypeFor[*number](), []string{"Own", "OwnToo"}},
		{reflect.TypeFor[*struct{ byValue }](), nil},
		{reflect.TypeFor[*io.Reader](), nil},
		{reflect.TypeFor[**byValue](), nil},
	} {
		var got []string
		for m := range ownMethods(tt.pointer) {
			got = append(got, m.Name)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s has the methods of its own %q, want %q", tt.pointer.Elem(), got, tt.want)
		}
	}
}

func TestWrittenByTellsWhatIsNoCode(t *testing.T) {
	t.Parallel()
	if got := writtenBy(0); got != unknownAuthor {
		t.Errorf("the code at 0 is by %d, want %d", got, unknownAuthor)
	}
}

func TestLowerCamel(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"Add": "add", "A": "a", "CreateUser": "createUser", "HTTPGet": "httpGet", "ID": "id", "UserID": "userID",
		"IDs": "ids", "URLs": "urls", "URLsOf": "urlsOf", "IDsByName": "idsByName", "DBsync": "dBsync", "AsJSON": "asJSON",
		"Is": "is", "GetURL": "getURL", "V2Place": "v2Place", "SHA256Sum": "sha256Sum", "X509": "x509", "Get_user": "get_user",
		"WebSocketMessage": "webSocketMessage", "Fetch": "fetch", "Élan": "élan",
	} {
		if got := lowerCamel(name); got != want {
			t.Errorf("lowerCamel(%q) = %q, want %q", name, got, want)
		}
	}
}
