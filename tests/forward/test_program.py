import torch

from forward.clauses import TokenClause, regions
from forward.columns import Read, linear
from forward.hookpoints import HookPoint
from forward.program import EMPTY, Program, RowContent, SiteContent

V, W = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
POST, PRE = HookPoint("resid_post", 0), HookPoint("resid_pre", 0)
TERMS = ((linear(Read(V), V), 1.0), (linear(Read(W), W), 0.5))


def test_order_of_columns_and_sites_does_not_matter():
    assert SiteContent(V, TERMS).digest == SiteContent(V.clone(), TERMS[::-1]).digest
    one, other = SiteContent(V), SiteContent(W)
    assert RowContent({PRE: one, POST: other}).digest == RowContent({POST: other, PRE: one}).digest


def test_digests_tell_contents_apart():
    digests = {
        SiteContent(V).digest, SiteContent(W).digest, SiteContent(V, TERMS).digest,
        SiteContent(None, TERMS).digest, SiteContent(None, TERMS[:1]).digest,
        SiteContent(torch.zeros(2)).digest, SiteContent().digest,
    }  # fmt: skip
    assert len(digests) == 7
    assert RowContent({PRE: SiteContent(V)}).digest != RowContent({POST: SiteContent(V)}).digest


def test_the_empty_row_has_the_empty_digest():
    assert RowContent().digest == ""
    assert {content.digest for content in EMPTY.contents} == {""}


def test_program_digest_covers_regions():
    content = RowContent({POST: SiteContent(V)})
    cuts = [regions([TokenClause("generation", start)]) for start in (1, 2)]
    programs = [Program(cut, (RowContent(), RowContent(), RowContent(), content)) for cut in cuts]
    assert programs[0].digest != programs[1].digest
    assert programs[0].starts == (0, 1)
    assert programs[0].hook_points == (POST,)
