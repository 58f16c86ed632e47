import pytest

from tasks.modality.wording import worded, worded_template


@pytest.mark.parametrize(
    ("sentence", "of_texts"),
    [
        ("12 test images, an image of a class", "12 test texts, a text of a class"),
        ("Images failed; photographs, and a Picture.", "Texts failed; texts, and a Text."),
        ("headstart predict clothing PHOTO", "headstart predict clothing TEXT"),
        ("/data/images/a, images_root, 'image' and image.jpg", "/data/images/a, images_root, 'image' and image.jpg"),
    ],
)
def test_sentences_of_ours_speak_of_texts_and_leave_names_alone(sentence: str, of_texts: str):
    assert worded(sentence, "text") == of_texts
    assert worded(sentence, "image") == sentence


def test_where_a_class_is_called_so_the_sentence_stays():
    assert worded("lost: image", "text", ["image", "text"]) == "lost: image"


def test_a_templates_expressions_and_tags_stay():
    source = '<img class="images">{{ images | count }} images{% if image %} of one image{% endif %}{# an image #}'
    assert worded_template(source, "text") == (
        '<img class="images">{{ images | count }} texts{% if image %} of one text{% endif %}{# an image #}'
    )
