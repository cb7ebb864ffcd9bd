from itertools import combinations

from clip_deepfake.metrics import COUNTERS

from tests.queries import dashboard, panels, selectors

COLUMNS = 24


def test_every_panel_has_an_id_of_its_own_and_a_place_of_its_own():
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    places = [panel["gridPos"] for panel in everything]
    for place in places:
        assert place["x"] + place["w"] <= COLUMNS
    for one, other in combinations(places, 2):
        beside = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        above = one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"]
        assert beside or above, (one, other)


def test_every_panel_has_queries_a_unit_thresholds_and_says_what_a_change_means():
    for panel in panels():
        assert panel["targets"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["thresholds"]["steps"], panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert "\n" not in panel["description"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references), panel["title"]
    titles = [panel["title"] for panel in panels()]
    assert len(set(titles)) == len(titles)


def test_all_data_come_from_the_chosen_source_and_each_of_our_counters_has_its_panel():
    chosen = {"type": "prometheus", "uid": "${datasource}"}
    variables = {variable["name"]: variable for variable in dashboard()["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    assert variables["model"]["datasource"] == chosen
    asked = set()
    for panel in panels():
        assert panel["datasource"] == chosen
        for target in panel["targets"]:
            assert target["datasource"] == chosen
            text = target["expr"].replace("$__rate_interval", "1m")
            for selector in selectors(text):
                asked.add(selector.metric)
                # Whoever chooses a model wants to see nothing of another.
                if selector.metric.startswith("clip_deepfake_") and selector.metric.endswith(
                    "_total"
                ):
                    assert "model_name" in selector.labels, text
    assert {counter.name for counter in COUNTERS} <= asked
